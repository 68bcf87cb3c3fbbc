"""Images that go by another name than their id: read from where the collection has them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sharding.encoded import MISSING, BadImage, Buffer, ReadBuffer
from sharding.errors import InputError
from sharding.fetching import Fetching
from sharding.files import refuse_changed
from sharding.importers.names import FILE as NAMES_FILE
from sharding.importers.names import HASH as NAMES_HASH
from sharding.importers.names import Names
from sharding.manifest import Dataset
from sharding.opening import open_source
from sharding.releases import Dump
from sharding.sources import Reader, Source


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
        """All images of a collection."""
        together = {k: v for part in names.by_split.values() for k, v in part.items()}
        return cls(directory=str(directory.resolve()), names=together)

    def only(self, image_ids: Sequence[str]) -> NamedSource:
        """The same for a few images: small enough to travel with each task."""
        return NamedSource(
            directory=self.directory, names={key: self.names[key] for key in image_ids}
        )

    def reader(self, split: str, image_ids: Sequence[str]) -> Reader:
        """A reader of the images named."""
        return _NamedReader(Path(self.directory), self.names)

    def name(self, split: str, image_id: str) -> str:
        """Path below the directory."""
        return self.names.get(image_id, image_id)


def open_images(
    dataset: Dataset, images: str, fetching: Fetching | None = None, dump: Dump | None = None
) -> Source:
    """The source of a dataset's images: by their own names where they were imported.

    Args:
        dataset: that needs them.
        images: as the user named their place.
        fetching: how patiently, over a network.
        dump: whose image lists "originals" means.

    Raises:
        InputError: it is missing, nothing in it can be an image, or the table of names is not
            what it was.
    """
    if NAMES_HASH not in dataset.manifest.created_by:
        return open_source(images, fetching, dump)
    refuse_changed(dataset.directory / NAMES_FILE, dataset.manifest.created_by[NAMES_HASH])
    if not Path(images).is_dir():
        raise InputError(
            "image directory is missing", file=images, fix="check the path of --images"
        )
    return NamedSource.of(Path(images), Names.read(dataset.directory / NAMES_FILE))


class _NamedReader:
    def __init__(self, directory: Path, names: Mapping[str, str]) -> None:
        self._directory, self._names = directory, names
        self._buffer = ReadBuffer()

    def read(self, image_id: str) -> Buffer:
        try:
            with open(self._directory / self._names[image_id], "rb", buffering=0) as file:
                return self._buffer.read(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except (KeyError, FileNotFoundError, NotADirectoryError):
            raise BadImage(MISSING) from None
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
