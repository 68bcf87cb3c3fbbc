"""Read images of an imported collection, whose file names are not the 16-hex ids of the dataset.

The id is the beginning of the SHA-256 of the name, so that it depends on nothing else. Which name
an id stands for is in `names.parquet` of the dataset.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from sharding.errors import InputError
from sharding.image_ids import LENGTH
from sharding.layout import NAMES_FILE, NAMES_HASH, is_below
from sharding.manifest import Dataset
from sharding.openimages.dump import Dump
from sharding.sources.base import ReadBuffer, ReadImage, Source
from sharding.sources.open import open_source
from sharding.sources.spelling import Listed
from sharding.storage import parquet
from sharding.storage.files import refuse_changed
from sharding.storage.retry import Buffer, RetryPolicy

SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "split", "name")])


def image_id_of(name: str) -> str:
    """Hash an image path, relative with forward slashes, to an id of 16 hex characters."""
    return hashlib.sha256(name.encode()).hexdigest()[:LENGTH]


@dataclass(frozen=True, kw_only=True)
class Names:
    """Image paths by id, per split."""

    by_split: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, names: Mapping[str, Iterable[str]]) -> Names:
        """Hash the names of every split, each of them there once.

        Raises:
            InputError: two names have the same id.
        """
        by_split: dict[str, dict[str, str]] = {split: {} for split in names}
        name_of: dict[str, str] = {}
        for split, listed in names.items():
            for name in listed:
                image_id = image_id_of(name)
                by_split[split][image_id] = name
                if (other := name_of.setdefault(image_id, name)) != name:
                    raise InputError(
                        f"{other!r} and {name!r} get the same id {image_id}",
                        fix="rename one of the two files",
                    )
        return cls(by_split=by_split)

    def without(self, image_ids: Collection[str]) -> Names:
        """Leave out the names of some images."""
        unwanted = frozenset(image_ids)
        return Names(
            by_split={
                split: {key: name for key, name in names.items() if key not in unwanted}
                for split, names in self.by_split.items()
            }
        )

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write `names.parquet` atomically, by split and id; return its sha256."""
        rows = sorted(
            (split, image_id, name)
            for split, names in self.by_split.items()
            for image_id, name in names.items()
        )
        columns = {
            "image_id": [image_id for _, image_id, _ in rows],
            "split": [split for split, _, _ in rows],
            "name": [name for _, _, name in rows],
        }
        return parquet.write_table(pa.table(columns, schema=SCHEMA), path)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Names:
        """Read `names.parquet`.

        Raises:
            InputError: it is missing or not a table of names.
        """
        kind, fix = "table of image names", "import the collection again"
        table = parquet.read_table(path, SCHEMA, kind=kind, fix=fix, nulls=False)
        by_split: dict[str, dict[str, str]] = {}
        for row in table.to_pylist():
            if not is_below(row["name"]):
                problem = f"not a {kind} ({row['name']!r:.80} is no path below the images)"
                raise InputError(problem, file=path, fix=fix)
            by_split.setdefault(row["split"], {})[row["image_id"]] = row["name"]
        return cls(by_split=by_split)


@dataclass(frozen=True, kw_only=True)
class NamedSource(Source):
    """A folder of images with a name for every id.

    Attributes:
        directory: of the images.
        names: path below it by id.
    """

    directory: str
    names: Mapping[str, str]

    @classmethod
    def of(cls, directory: Path, names: Names) -> NamedSource:
        """Name all images of a collection."""
        all_names = {key: name for part in names.by_split.values() for key, name in part.items()}
        return cls(directory=str(directory.resolve()), names=all_names)

    def only(self, image_ids: Sequence[str]) -> NamedSource:
        """Narrow the names to a few images."""
        return dataclasses.replace(self, names={key: self.names[key] for key in image_ids})

    @contextlib.contextmanager
    def reader(self, split: str, image_ids: Sequence[str]) -> Iterator[ReadImage]:
        """Open the directory; a name finds a file in another case or Unicode form, too."""
        buffer, listed = ReadBuffer(), Listed()

        def paths(name: str) -> Iterator[str]:
            yield os.path.join(self.directory, name)
            if (found := listed.alike(self.directory, name)) is not None:
                yield found

        def read(image_id: str) -> Buffer:
            return buffer.read_first(paths(self.names[image_id]) if image_id in self.names else ())

        yield read

    def name(self, split: str, image_id: str) -> str:
        """Path below the directory."""
        return self.names.get(image_id, image_id)


def open_images(
    dataset: Dataset, images: str, policy: RetryPolicy | None = None, dump: Dump | None = None
) -> Source:
    """Open a source of a dataset's images, by their own names where they were imported.

    Args:
        dataset: that needs them.
        images: what ``--images`` says.
        policy: of retries over a network.
        dump: whose image lists "originals" means.

    Raises:
        InputError: it is missing, nothing in it can be an image, or the table of names has changed.
    """
    if NAMES_HASH not in dataset.manifest.created_by:
        return open_source(images, policy, dump)
    refuse_changed(dataset.directory / NAMES_FILE, dataset.manifest.created_by[NAMES_HASH])
    if not Path(images).is_dir():
        raise InputError("image directory is missing", file=images, fix="check --images")
    return NamedSource.of(Path(images), Names.read(dataset.directory / NAMES_FILE))
