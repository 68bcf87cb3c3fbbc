"""Images in a directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sharding.encoded import BadImage, Buffer, ReadBuffer
from sharding.errors import InputError
from sharding.sources import MISSING, Reader, Source


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
        self._buffer = ReadBuffer()

    def read(self, image_id: str) -> Buffer:
        for folder in self._folders:
            try:
                descriptor = os.open(f"{folder}/{image_id}.jpg", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise BadImage(f"cannot be opened: {error.strerror}") from None
            try:
                return self._buffer.read(descriptor, 0, os.fstat(descriptor).st_size)
            except OSError as error:
                raise BadImage(f"cannot be read: {error.strerror}") from None
            finally:
                os.close(descriptor)
        raise BadImage(MISSING)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _holds_jpeg(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".jpg") for entry in entries)
