"""Read images from a directory and the folders below it, as people unpack them.

Open Images comes as `<id>.jpg`, `train/<id>.jpg`, `train_0/`, `train/train_0/` (per archive),
`train/data/` (FiftyOne) or `train/Apple/` (OIDv4 toolkit), and endings vary.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import InputError
from sharding.image_ids import parse_image_file
from sharding.layout import SPLITS
from sharding.sources.base import ReadBuffer, ReadImage, Source

DEPTH = 4
"""Folders below the directory, one in the other, that are searched."""
_NEVER = ("__MACOSX", "@eaDir")

Spelling = tuple[bool, str]
"""Whether the id is in upper case, and the ending."""


@dataclass(frozen=True, kw_only=True)
class DirectorySource(Source):
    """A directory of images named by their ids, and of folders of such.

    Attributes:
        directory: whose own images, after those of the split's folders, come first.
        folders: path below it of each folder with images, and the spellings of names there.
    """

    directory: str
    folders: Mapping[str, tuple[Spelling, ...]]

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> DirectorySource:
        """Look for folders with images.

        Raises:
            InputError: it is missing, or holds no `<id>.jpg` where one is looked for.
        """
        root = Path(directory)
        if not root.is_dir():
            is_there = root.exists()
            problem = "is no folder or archive" if is_there else "image directory is missing"
            raise InputError(problem, file=root, fix="check the path of --images")
        folders = image_folders(root)
        if not folders:
            raise InputError(
                f"holds no image: looked for <id>.jpg, there and up to {DEPTH} folders below",
                file=root,
                fix="give the folder of the downloaded images",
            )
        return cls(directory=str(root.resolve()), folders=folders)

    @contextlib.contextmanager
    def reader(self, split: str, image_ids: Sequence[str]) -> Iterator[ReadImage]:
        """Read from the folders of a split."""
        buffer, formats = ReadBuffer(), self._formats(split)
        yield lambda image_id: buffer.read_first(
            os.path.join(self.directory, path) for path in _paths(formats, image_id)
        )

    def name(self, split: str, image_id: str) -> str:
        """Path below the directory; the bare file name where no folder has it."""
        paths = _paths(self._formats(split), image_id)
        existing = (path for path in paths if os.path.exists(os.path.join(self.directory, path)))
        return next(existing, f"{image_id}.jpg")

    def _formats(self, split: str) -> list[tuple[str, bool, str]]:
        """List (folder, case, ending) of a split: its own folders, the root, those of no split."""
        rank = {split: 0, "": 1, **{other: None for other in SPLITS if other != split}}
        ranked = [(rank.get(folder.split("/")[0], 2), folder) for folder in self.folders]
        ours = sorted(
            (number, folder.count("/"), folder) for number, folder in ranked if number is not None
        )
        return [(folder, *spelling) for *_, folder in ours for spelling in self.folders[folder]]


def _paths(formats: Sequence[tuple[str, bool, str]], image_id: str) -> Iterator[str]:
    upper = image_id.upper()
    for folder, is_upper, ending in formats:
        yield f"{folder}/{upper if is_upper else image_id}{ending}".removeprefix("/")


def image_folders(root: Path) -> dict[str, tuple[Spelling, ...]]:
    """List the folders with images, "" for ``root`` itself, and the spellings of names in each.

    One that links name again counts once for each split, so that links in a circle end.
    """
    folders: dict[str, tuple[Spelling, ...]] = {}
    seen: set[tuple[str, str]] = set()
    level = [""]
    for _ in range(DEPTH + 1):
        below: list[str] = []
        for folder in level:
            top = folder.split("/")[0]
            place = (top if top in SPLITS else "", os.path.realpath(root / folder))
            if place in seen:
                continue
            seen.add(place)
            spellings, inner = _scan(root / folder)
            if spellings:
                folders[folder] = spellings
            below += [f"{folder}/{name}".removeprefix("/") for name in inner]
        level = below
    return folders


def _scan(folder: Path) -> tuple[tuple[Spelling, ...], list[str]]:
    """Scan a folder: spellings of image names, the usual one first, and the folders in it."""
    spellings: set[Spelling] = set()
    inner = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if parsed := parse_image_file(entry.name):
                    image_id, ending = parsed
                    if image_id in (image_id.lower(), image_id.upper()):
                        spellings.add((image_id.isupper(), ending))
                elif not entry.name.startswith((".", *_NEVER)) and _is_folder(entry):
                    inner.append(entry.name)
    except PermissionError:  # the lost+found of a disk, for one
        return (), []
    return tuple(sorted(spellings, key=lambda s: (s != (False, ".jpg"), s))), sorted(inner)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell a folder or a link to one; other files, of which there may be millions, cost no stat."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry))
