"""Images in a directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sharding.errors import InputError
from sharding.layout import SPLITS
from sharding.sources.base import ReadBuffer, Reader, Source
from sharding.storage.retry import MISSING, BadImage, Buffer


@dataclass(frozen=True, kw_only=True)
class DirectorySource(Source):
    """A directory of `<id>.jpg` or of `<split>/<id>.jpg`, or of both, or of other folders.

    Attributes:
        directory: whose own images, and those of the split's folder, come first.
        others: folders in it that hold images too, such as `train_0` ... `train_f`.
    """

    directory: str
    others: tuple[str, ...] = ()

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
        folders = image_folders(root)
        if not folders:
            raise InputError(
                "holds no image: looked for <id>.jpg, there and one folder below",
                file=root,
                fix="give the folder of the downloaded images",
            )
        others = tuple(name for name in folders if name not in ("", *SPLITS))
        return cls(directory=str(root.resolve()), others=others)

    def reader(self, split: str, image_ids: Sequence[str]) -> Reader:
        """A reader that reuses one buffer for all images."""
        places = (os.path.join(self.directory, folder) for folder in self._folders(split))
        return _DirectoryReader(*places)

    def name(self, split: str, image_id: str) -> str:
        """Path below the directory."""
        name = f"{image_id}.jpg"
        names = (os.path.join(folder, name) for folder in self._folders(split))
        there = (path for path in names if os.path.exists(os.path.join(self.directory, path)))
        return next(there, name)

    def _folders(self, split: str) -> tuple[str, ...]:
        return (split, "", *self.others)


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


def image_folders(root: Path) -> list[str]:
    """The folders that hold a `.jpg`: "" for ``root`` itself, names of those in it."""
    with os.scandir(root) as entries:
        below = sorted(entry.name for entry in entries if entry.is_dir())
    return [name for name in ("", *below) if _holds_jpeg(root / name)]


def _holds_jpeg(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(".jpg") for entry in entries)
    except PermissionError:  # the lost+found of a disk, for one
        return False
