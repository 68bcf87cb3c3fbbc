"""An annotation dump, located: which release it is and which of its files is which."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sharding.errors import InputError
from sharding.layout import SPLITS
from sharding.openimages.dump_files import DumpFile, list_files
from sharding.openimages.layouts import (
    LAYOUTS,
    Layout,
    is_boxable,
    is_split_folder,
    matches,
    readable,
    recognise,
)


@dataclass(frozen=True, kw_only=True)
class Dump:
    """An annotation dump, located: which files it consists of. Nothing is read but names.

    Attributes:
        root: the directory, archive or file it was opened from.
        name: the directory that holds the labels ("2017_11"), or chosen; names the label version.
        release: "v3" ... "v7" or "export".
        human: file of human-verified labels by split; never empty.
    """

    root: Path
    name: str
    release: str
    human: Mapping[str, DumpFile]
    files: tuple[DumpFile, ...] = field(repr=False)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        release: str | None = None,
        name: str | None = None,
    ) -> Dump:
        """Locate the files of a dump.

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
        chosen = name if name is not None else _folder(next(iter(human.values())))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", chosen):
            raise InputError(
                f"{chosen!r} cannot name a label version",
                file=root,
                fix="name it with letters, digits, '.', '_' and '-' only",
            )
        return cls(root=root, name=chosen, release=layout.release, human=human, files=files)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have human labels, in the order train, validation, test."""
        return tuple(split for split in SPLITS if split in self.human)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know who expects a whole dump."""
        return tuple(
            f"note: the {split} labels are only those of the classes that have boxes ({file.name})"
            for split, file in self.human.items()
            if is_boxable(file)
        )

    @property
    def has_class_list(self) -> bool:
        """Whether the trainable list came with the dump."""
        return self._find(self._layout.classes, self.files, "train") is not None

    @property
    def class_list_file(self) -> DumpFile:
        """The trainable list, whose line order is the class index.

        Raises:
            InputError: the dump has none.
        """
        return self._required("classes", "the class list")

    @property
    def descriptions_file(self) -> DumpFile:
        """The display names of the classes.

        Raises:
            InputError: the dump has none.
        """
        return self._required("descriptions", "the class names")

    def annotation_files(self, split: str) -> tuple[DumpFile, ...]:
        """The files of human-verified labels of a split.

        Raises:
            InputError: the dump has no such split.
        """
        if split not in self.human:
            raise InputError(
                f"the dump has no {split!r} labels; present: {', '.join(self.splits)}",
                file=self.root,
                fix=f"add {_either(self._layout.human, split)}",
            )
        return (self.human[split],)

    def machine_file(self, split: str) -> DumpFile:
        """The file of machine labels of a split.

        Raises:
            InputError: the dump has none.
        """
        patterns = self._layout.machine
        found = self._find(patterns, self._with_machine_labels, split)
        if found is None:
            raise InputError(
                f"machine labels were asked for: looked for {_either(patterns, split)}",
                file=self.root,
                fix="add the file or leave out the machine threshold",
            )
        return found

    def images_file(self, split: str) -> DumpFile | None:
        """The image list (URLs, MD5, from V4 on rotation) of a split, None where there is none."""
        return self._find(self._layout.images, self._with_image_lists, split)

    @property
    def _layout(self) -> Layout:
        return next(layout for layout in LAYOUTS if layout.release == self.release)

    @functools.cached_property
    def _with_machine_labels(self) -> tuple[DumpFile, ...]:
        return self._also("machine")

    @functools.cached_property
    def _with_image_lists(self) -> tuple[DumpFile, ...]:
        return self._also("images")

    def _also(self, rarely_read: str) -> tuple[DumpFile, ...]:
        return tuple(dict.fromkeys((*self.files, *list_files(self.root, rarely_read=rarely_read))))

    def _required(self, role: str, what: str) -> DumpFile:
        patterns = getattr(self._layout, role)
        found = self._find(patterns, self.files, "train")
        if found is None:
            raise InputError(
                f"{what} is missing: looked for {_either(patterns, 'train')}",
                file=self.root,
                fix="put the file beside the annotations",
            )
        return found

    def _find(
        self, patterns: tuple[str, ...], files: tuple[DumpFile, ...], split: str
    ) -> DumpFile | None:
        """The best file of a role: earlier pattern, then closer to the labels, then unpacked."""
        home = next(iter(self.human.values()))
        for pattern in patterns:
            matching = [file for file in files if matches(pattern, split, file)]
            if matching:
                return min(matching, key=lambda file: (-_shared_folders(file, home), file.packing))
        return None


def _folder(file: DumpFile) -> str:
    """The folder a release lies in, above the split's own folder."""
    folders = file.location.split("/")[:-1]
    while len(folders) > 1 and is_split_folder(folders[-1]):
        folders.pop()
    return folders[-1]


def _shared_folders(file: DumpFile, home: DumpFile) -> int:
    pairs = zip(file.location.split("/"), home.location.split("/"), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _either(patterns: Sequence[str], split: str) -> str:
    return " or ".join(readable(pattern, split) for pattern in patterns) or "nothing: none exist"
