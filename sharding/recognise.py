"""Which release the files of a folder are, and which of them hold the labels of which split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sharding.dumpfiles import DumpFile
from sharding.errors import InputError
from sharding.layouts import LAYOUTS, SPLITS, Layout, at_home, is_boxable, matches, readable

RELEASES = tuple(layout.release for layout in LAYOUTS)
Fit = tuple[Layout, dict[str, DumpFile]]


def recognise(root: Path, files: Sequence[DumpFile], release: str | None) -> Fit:
    """The one layout that fits, and its label files by split.

    Args:
        root: told in errors.
        files: all of the dump.
        release: one of `RELEASES`, or None to find out.

    Raises:
        InputError: no layout fits, several do, or two files claim the same split.
    """
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
    """Whether ``other`` explains all files of ``fit``, and more of them or better.

    Files cut to boxable classes do not count: whole ones are better.
    """
    (other_layout, other_files), (layout, files) = other, fit
    if layout.release == "export":
        return other_layout.release != "export"
    theirs, ours = (
        {file for file in found.values() if not is_boxable(file)} for found in (other_files, files)
    )
    if theirs != ours:
        return ours < theirs
    return _all_home(other) and not _all_home(fit)


def _all_home(fit: Fit) -> bool:
    layout, files = fit
    return all(at_home(layout, file) for file in files.values())
