"""Where the encoded images come from.

A `Source` is small and travels to the workers; a `Reader` is opened there and serves one shard.
Other sources than a directory have files of their own: `sharding.archives`, `sharding.remote`,
`sharding.originals`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from sharding.encoded import MISSING as MISSING
from sharding.encoded import BadImage, Buffer
from sharding.errors import InputError
from sharding.fetching import Fetching
from sharding.releases import Dump

ORIGINALS = "originals"
"""Instead of a place: the URLs in the dump's own image lists."""

AnyMap = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Applies a function to items on other processes; yields results in any order."""


class Reader(Protocol):
    """Serves the images of one shard, in the order that `Source.reader` was given."""

    def read(self, image_id: str) -> Buffer:
        """The encoded bytes, valid until the next call.

        Raises:
            BadImage: there is no such image (`MISSING`), or it cannot be read.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Source(Protocol):
    """A set of images by split and id."""

    def reader(self, split: str, image_ids: Sequence[str]) -> Reader:
        """A reader of the images named."""
        ...

    def name(self, split: str, image_id: str) -> str:
        """Where an image lies, for the quarantine table: relative to the source, or a URL."""
        ...

    @property
    def at_random(self) -> bool:
        """Whether a few images can be read without reading all."""
        return True

    def staged(
        self, image_ids_N: npt.NDArray[np.uint64], directory: Path, parallel: AnyMap
    ) -> AbstractContextManager[Source]:
        """What has to happen once before shards of these images can be written, and its undoing.

        Args:
            image_ids_N: all images of the job, also those of shards that are finished.
            directory: of the dataset; below it is room for what is needed meanwhile.
            parallel: spreads work over the cluster.
        """
        return contextlib.nullcontext(self)

    def only(self, image_ids: Sequence[str]) -> Source:
        """The same for a few images: small enough to travel with each task."""
        return self


@dataclass(frozen=True, kw_only=True)
class DirectorySource(Source):
    """A directory of `<id>.jpg` or of `<split>/<id>.jpg`, or of both."""

    directory: str

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> DirectorySource:
        """Check that the directory can be one.

        Raises:
            InputError: it is missing, or holds no `.jpg` where one is looked for.
        """
        root = Path(directory)
        if not root.is_dir():
            raise InputError(
                "image directory is missing", file=root, fix="check the path of --images"
            )
        folders = [root, *(root / split for split in ("train", "validation", "test"))]
        if not any(_holds_jpeg(folder) for folder in folders):
            raise InputError(
                "holds no image: looked for <id>.jpg and <split>/<id>.jpg",
                file=root,
                fix="give the folder of the downloaded images",
            )
        return cls(directory=str(root.resolve()))

    def reader(self, split: str, image_ids: Sequence[str]) -> Reader:
        """A reader that reuses one buffer for all images."""
        return _DirectoryReader(os.path.join(self.directory, split), self.directory)

    def name(self, split: str, image_id: str) -> str:
        """Path below the directory."""
        nested = f"{split}/{image_id}.jpg"
        in_split = os.path.exists(os.path.join(self.directory, nested))
        return nested if in_split else f"{image_id}.jpg"


class _DirectoryReader:
    def __init__(self, *folders: str) -> None:
        self._folders = [folder for folder in folders if os.path.isdir(folder)]
        # A fresh buffer per image would cost a page fault every 4 KiB.
        self._buffer = memoryview(bytearray(1 << 20))

    def read(self, image_id: str) -> Buffer:
        for folder in self._folders:
            try:
                descriptor = os.open(f"{folder}/{image_id}.jpg", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise BadImage(f"cannot be opened: {error.strerror}") from None
            try:
                return self._read(descriptor)
            except OSError as error:
                raise BadImage(f"cannot be read: {error.strerror}") from None
            finally:
                os.close(descriptor)
        raise BadImage(MISSING)

    def _read(self, descriptor: int) -> memoryview:
        size = os.fstat(descriptor).st_size
        if size > len(self._buffer):
            self._buffer = memoryview(bytearray(2 * size))
        filled = 0
        while filled < size:
            count = os.readv(descriptor, [self._buffer[filled:size]])
            if not count:
                break
            filled += count
        return self._buffer[:filled]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._buffer.release()


def _holds_jpeg(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".jpg") for entry in entries)


def open_source(images: str, fetching: Fetching | None = None, dump: Dump | None = None) -> Source:
    """The source that ``--images`` names: a directory, archives, a URL, or a list of URLs.

    Args:
        images: as the user named it.
        fetching: how patiently, over a network.
        dump: whose image lists `ORIGINALS` means.

    Raises:
        InputError: it is missing, or nothing in it can be an image.
    """
    # Imported as needed: a directory wants neither an HTTP client nor a cloud's.
    fetching = fetching or Fetching()
    if images == ORIGINALS or images.endswith((".csv", ".csv.gz")):
        from sharding.originals import OriginalsSource

        if images != ORIGINALS:
            return OriginalsSource.of_list(images, fetching)
        if dump is None:
            raise InputError(
                "there is no dump here whose image lists name the originals",
                fix="give --images the image list itself (images.csv)",
            )
        return OriginalsSource.of_dump(dump, fetching)
    from sharding.archives import ArchiveSource, names_archives

    if names_archives(images):
        return ArchiveSource.open(images, fetching)
    if "://" in images:
        from sharding.remote import RemoteSource

        return RemoteSource.open(images, fetching)
    return DirectorySource.open(images)
