"""Locate an annotation dump: which release it is, and which of its files holds what."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sharding.errors import InputError
from sharding.layout import SPLITS, VERSION_NAMES, is_version_name
from sharding.openimages.dump_files import RARELY_READ, DumpFile, list_files
from sharding.openimages.layouts import (
    IN_SPLIT,
    LAYOUTS,
    Layout,
    is_boxable,
    is_split_folder,
    matches,
    readable,
    recognise,
)

_BESIDE = "put the file beside the annotations"

Role = Literal["machine", "classes", "descriptions", "images"]


@dataclass(frozen=True, kw_only=True)
class Dump:
    """The files of an annotation dump, found by their names; none is read.

    Attributes:
        root: the directory, archive or file it was opened from.
        name: the directory that holds the labels ("2017_11"), or chosen; names the label version.
        release: "v3" ... "v7" or "export".
        human: file of human-verified labels by split; never empty.
        files: all tables, but for those in rarely read archives.
    """

    root: Path
    name: str
    release: str
    human: Mapping[str, DumpFile]
    files: tuple[DumpFile, ...] = field(repr=False)
    _rarely_read: dict[str, tuple[DumpFile, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        release: str | None = None,
        name: str | None = None,
    ) -> Dump:
        """Find the files of a dump.

        Args:
            directory: the dump's folder or its parent, or a folder with the published archives.
            release: one of `RELEASES`; recognised from the file names when None.
            name: name of the label version; the labels' own folder when None.

        Raises:
            InputError: no layout fits, several do, or two files claim the same split.
        """
        root = Path(directory)
        files = list_files(root)
        layout, human = recognise(root, files, release)
        if name is None:
            folder = _folder(next(iter(human.values())))
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder).lstrip("._-")
        if not is_version_name(name):
            raise InputError(
                f"{name!r} cannot name a label version",
                file=root,
                fix=f"give --labels a name of {VERSION_NAMES}",
            )
        return cls(root=root, name=name, release=layout.release, human=human, files=files)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have human labels, in the order train, validation, test."""
        return tuple(split for split in SPLITS if split in self.human)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes for a user who expects a complete dump."""
        return tuple(
            f"note: the {split} labels are only those of the classes that have boxes ({file.name})"
            for split, file in self.human.items()
            if is_boxable(file)
        )

    @property
    def has_class_list(self) -> bool:
        """Whether the trainable list came with the dump."""
        return self._find("classes") is not None

    @property
    def class_list_file(self) -> DumpFile:
        """The trainable list, whose line order is the class index.

        Raises:
            InputError: the dump has none.
        """
        return self._required("classes", "the class list is missing", _BESIDE)

    @property
    def descriptions_file(self) -> DumpFile:
        """The display names of the classes.

        Raises:
            InputError: the dump has none.
        """
        return self._required("descriptions", "the class names are missing", _BESIDE)

    def annotation_files(self, split: str) -> tuple[DumpFile, ...]:
        """List the files of human-verified labels of a split.

        Raises:
            InputError: the dump has no such split.
        """
        if split not in self.human:
            raise InputError(
                f"the dump has no {split!r} labels; present: {', '.join(self.splits)}",
                file=self.root,
                fix=f"add {_alternatives(self._layout.human, split)}",
            )
        return (self.human[split],)

    def machine_file(self, split: str) -> DumpFile:
        """Find the file of machine labels of a split.

        Raises:
            InputError: the dump has none.
        """
        fix = "add the file or leave out the machine threshold"
        return self._required("machine", "machine labels were asked for", fix, split)

    def images_file(self, split: str) -> DumpFile | None:
        """Find the image list (URLs, MD5, from V4 on rotation) of a split; None where missing."""
        return self._find("images", split)

    @property
    def _layout(self) -> Layout:
        return next(layout for layout in LAYOUTS if layout.release == self.release)

    def _required(self, role: Role, problem: str, fix: str, split: str = "train") -> DumpFile:
        file = self._find(role, split)
        if file is None:
            looked_for = _alternatives(getattr(self._layout, role), split)
            raise InputError(f"{problem}: looked for {looked_for}", file=self.root, fix=fix)
        return file

    def _find(self, role: Role, split: str = "train") -> DumpFile | None:
        """Find the best file: earlier pattern, then closer to the labels, then unpacked."""
        home = next(iter(self.human.values()))
        for pattern in getattr(self._layout, role):
            matching = [f for f in self._files_for(role) if matches(pattern, split, f)]
            if matching:
                return min(matching, key=lambda file: (-_shared_folders(file, home), file.packing))
        return None

    def _files_for(self, role: Role) -> tuple[DumpFile, ...]:
        """List the files that may have a role, members of rarely read archives once asked for."""
        if role not in RARELY_READ:
            return self.files
        if role not in self._rarely_read:
            more = list_files(self.root, rarely_read=role)
            self._rarely_read[role] = tuple(dict.fromkeys((*self.files, *more)))
        return self._rarely_read[role]


def _folder(file: DumpFile) -> str:
    """Name the folder of a release, above the split's own folder."""
    folders = file.location.replace(IN_SPLIT, "/").split("/")[:-1]
    while len(folders) > 1 and is_split_folder(folders[-1]):
        folders.pop()
    return folders[-1]


def _shared_folders(file: DumpFile, home: DumpFile) -> int:
    pairs = zip(file.location.split("/"), home.location.split("/"), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _alternatives(patterns: Sequence[str], split: str) -> str:
    return " or ".join(readable(pattern, split) for pattern in patterns) or "nothing: none exist"
