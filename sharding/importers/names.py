"""Foreign file names and the 16-hex ids that stand for them here.

The id is the beginning of the SHA-256 of the name, so that it depends on nothing else. Which name
an id stands for is in `names.parquet` of the dataset.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sharding.atomic import replacing
from sharding.errors import InputError
from sharding.ids import LENGTH

FILE = "names.parquet"
HASH = "names_file_sha256"
"""Key of its hash in the manifest's ``created_by``; absent from what was not imported."""
SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "split", "name")])


def image_id_of(name: str) -> str:
    """The 16 hex characters that stand for an image path, relative with forward slashes."""
    return hashlib.sha256(name.encode()).hexdigest()[:LENGTH]


@dataclass(frozen=True, kw_only=True)
class Names:
    """Image paths by id, per split."""

    by_split: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, names: Mapping[str, Iterable[str]]) -> Names:
        """The ids of the names of every split, each of them there once.

        Raises:
            InputError: two names have the same id.
        """
        known: dict[str, str] = {}
        by_split: dict[str, dict[str, str]] = {}
        for split, listed in names.items():
            by_split[split] = {}
            for name in listed:
                image_id = image_id_of(name)
                other = known.setdefault(image_id, name)
                if other != name:
                    raise InputError(
                        f"{other!r} and {name!r} get the same id {image_id}",
                        fix="rename one of the two files",
                    )
                by_split[split][image_id] = name
        return cls(by_split=by_split)

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
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
            return hashlib.sha256(temporary.read_bytes()).hexdigest()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Names:
        """Read `names.parquet`.

        Raises:
            InputError: it is missing or not a table of names.
        """
        try:
            table = pq.read_table(Path(path), columns=SCHEMA.names).cast(SCHEMA)
        except FileNotFoundError:
            raise InputError(
                "the table of image names is missing", file=path, fix="import the collection again"
            ) from None
        except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, OSError) as error:
            raise InputError(
                f"not a table of image names ({str(error).splitlines()[0]})",
                file=path,
                fix="import the collection again",
            ) from None
        by_split: dict[str, dict[str, str]] = {}
        for row in table.to_pylist():
            by_split.setdefault(row["split"], {})[row["image_id"]] = row["name"]
        return cls(by_split=by_split)
