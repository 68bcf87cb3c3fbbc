"""An annotation dump, located: which release it is and which of its files is which."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sharding.dumpfiles import DumpFile, list_files
from sharding.errors import InputError
from sharding.layouts import LAYOUTS, SPLITS, Layout, at_home, is_split_folder, matches, readable

RELEASES = tuple(layout.release for layout in LAYOUTS)


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
        layout, human = _recognise(root, files, release)
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
        found = self._find(patterns, self._all_files, split)
        if found is None:
            raise InputError(
                f"machine labels were asked for: looked for {_either(patterns, split)}",
                file=self.root,
                fix="add the file or leave out the machine threshold",
            )
        return found

    def images_file(self, split: str) -> DumpFile | None:
        """The image list (URLs, MD5, from V4 on rotation) of a split, None where there is none."""
        return self._find(self._layout.images, self._all_files, split)

    @property
    def _layout(self) -> Layout:
        return next(layout for layout in LAYOUTS if layout.release == self.release)

    @functools.cached_property
    def _all_files(self) -> tuple[DumpFile, ...]:
        return tuple(dict.fromkeys((*self.files, *list_files(self.root, rarely_read=True))))

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


Fit = tuple[Layout, dict[str, DumpFile]]


def _recognise(root: Path, files: Sequence[DumpFile], release: str | None) -> Fit:
    """The one layout that fits, and its label files by split."""
    if release is not None and release not in RELEASES:
        raise InputError(f"unknown release {release!r}", fix=f"choose from {', '.join(RELEASES)}")
    asked = [layout for layout in LAYOUTS if release in (None, layout.release)]
    fits = [(layout, _label_files(root, files, layout)) for layout in asked]
    fits = [fit for fit in fits if fit[1]]
    best = [fit for fit in fits if not any(_supersedes(other, fit) for other in fits)]
    if len(best) == 1:
        return best[0]
    if not best:
        wanted = [f"{layout.release}: {readable(layout.human[0], 'train')}" for layout in asked]
        raise InputError(
            f"no annotation dump found; looked for {'; '.join(wanted)} (plain, .gz or in .tar.gz)",
            file=root,
            fix="give the folder that holds the annotation files, or its parent",
        )
    raise InputError(
        f"more than one release fits: {' and '.join(layout.release for layout, _ in best)}",
        file=root,
        fix="name one with --release, or give the folder of that release",
    )


def _label_files(root: Path, files: Sequence[DumpFile], layout: Layout) -> dict[str, DumpFile]:
    """Label files by split, train first; empty where the layout does not fit."""
    if not any(matches(layout.marker, split, file) for split in SPLITS for file in files):
        return {}
    found = {}
    for split in SPLITS:
        for pattern in layout.human:
            matching = [file for file in files if matches(pattern, split, file)]
            if matching:
                home = [file for file in matching if at_home(layout, file)]
                found[split] = _only(root, split, home or matching)
                break
    return found


def _only(root: Path, split: str, matching: Sequence[DumpFile]) -> DumpFile:
    """The least packed file; two that are packed alike are one too many."""
    first, *others = sorted(matching, key=lambda file: file.packing)
    if others and others[0].packing == first.packing:
        raise InputError(
            f"two files claim to be the {split} labels: {first} and {others[0]}",
            file=root,
            fix="give the folder of one dump",
        )
    return first


def _supersedes(other: Fit, fit: Fit) -> bool:
    """Whether ``other`` explains all files of ``fit``, and more of them or better."""
    (other_layout, other_files), (layout, files) = other, fit
    if layout.release == "export":
        return other_layout.release != "export"
    theirs, ours = set(other_files.values()), set(files.values())
    if theirs != ours:
        return ours < theirs
    return _all_home(other) and not _all_home(fit)


def _all_home(fit: Fit) -> bool:
    layout, files = fit
    return all(at_home(layout, file) for file in files.values())


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
