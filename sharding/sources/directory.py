"""Read images from a directory and the folders in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import InputError
from sharding.layout import SPLITS
from sharding.sources.base import ReadBuffer, ReadImage, Source


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

    @contextlib.contextmanager
    def reader(self, split: str, image_ids: Sequence[str]) -> Iterator[ReadImage]:
        """Open the folders of a split."""
        paths = [os.path.join(self.directory, folder) for folder in self._folders(split)]
        folders = [path for path in paths if os.path.isdir(path)]
        buffer = ReadBuffer()
        yield lambda image_id: buffer.read_first(f"{folder}/{image_id}.jpg" for folder in folders)

    def name(self, split: str, image_id: str) -> str:
        """Path below the directory; the bare file name where no folder has it."""
        name = f"{image_id}.jpg"
        paths = (os.path.join(folder, name) for folder in self._folders(split))
        existing = (path for path in paths if os.path.exists(os.path.join(self.directory, path)))
        return next(existing, name)

    def _folders(self, split: str) -> tuple[str, ...]:
        return (split, "", *self.others)


def image_folders(root: Path) -> list[str]:
    """List the folders that hold a `.jpg`: "" for ``root`` itself, names of those in it."""
    with os.scandir(root) as entries:
        below = sorted(entry.name for entry in entries if entry.is_dir())
    return [name for name in ("", *below) if _holds_jpeg(root / name)]


def _holds_jpeg(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(".jpg") for entry in entries)
    except PermissionError:  # the lost+found of a disk, for one
        return False
