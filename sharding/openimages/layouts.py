"""The file names of Open Images V3 to V7, as one table.

Source: the published file names (READMEV3 and the download pages of V4 to V7). The header of the
image-label files never changed, so a release is recognised by its names alone. V4 and V5 have the
same names; only the folder they were published in (`2018_04`, `v5`) tells them apart. V6 re-issued
the train labels only: its validation and test labels are V5's. V7 writes `val` for `validation`.
Files named `-boxable` hold the labels of the 600 classes that have boxes; they are taken for a
split whose whole labels are not there.

Which release the files of a folder are, and which of them hold the labels of which split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import InputError
from sharding.layout import SPLITS
from sharding.openimages.dump_files import DumpFile

_SPELLINGS = {"train": "train", "validation": "(?:validation|val)", "test": "test"}

_ANY_PREFIX = "(?:[^/]*[-_.])?"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The file names of one release, as patterns over the end of a location.

    ``{split}`` stands for the spellings of a split; of several patterns the first that finds a
    file wins. ``folder`` is where the release was published (a regular expression). The layout
    fits only where ``marker`` is found, in any split.
    """

    release: str
    folder: str
    human: tuple[str, ...]
    marker: str
    machine: tuple[str, ...] = ()
    classes: tuple[str, ...] = ("classes-trainable.txt",)
    descriptions: tuple[str, ...] = ("class-descriptions.csv",)
    images: tuple[str, ...] = ()


ALL_SPLITS_LIST = "image_ids_and_rotation.csv"
"""The one image list that is not of a single split."""

_V4_LABELS = "{split}-annotations-human-imagelabels.csv"

_V4_BOXABLE = "{split}-annotations-human-imagelabels-boxable.csv"

_V4_EITHER = "{split}-annotations-human-imagelabels(?:-boxable)?.csv"

_V4_MACHINE = "{split}-annotations-machine-imagelabels.csv"

_V4_IMAGES = (
    "{split}-images-with-labels-with-rotation.csv",
    "{split}-images-with-rotation.csv",
    "{split}-images-boxable-with-rotation.csv",
    ALL_SPLITS_LIST,
)

LAYOUTS = (
    Layout(
        release="v3",
        folder="2017_11|2017_07",
        human=("{split}/annotations-human.csv",),
        marker="{split}/annotations-human.csv",
        machine=("{split}/annotations-machine.csv",),
        images=("{split}/images.csv",),
    ),
    Layout(
        release="v4",
        folder="2018_04",
        human=(_V4_LABELS, _V4_BOXABLE),
        marker=_V4_EITHER,
        machine=(_V4_MACHINE,),
        images=_V4_IMAGES,
    ),
    Layout(
        release="v5",
        folder="v5",
        human=(_V4_LABELS, _V4_BOXABLE),
        marker=_V4_EITHER,
        machine=(_V4_MACHINE,),
        images=_V4_IMAGES,
    ),
    Layout(
        release="v6",
        folder="v6|v5",
        human=("oidv6-" + _V4_LABELS, _V4_LABELS, _V4_BOXABLE),
        marker="oidv6-train-annotations-human-imagelabels.csv",
        machine=("oidv6-" + _V4_MACHINE, _V4_MACHINE),
        classes=("oidv6-classes-trainable.txt", "classes-trainable.txt"),
        descriptions=("oidv6-class-descriptions.csv", "class-descriptions.csv"),
        images=("oidv6-{split}-images-with-labels-with-rotation.csv", *_V4_IMAGES),
    ),
    Layout(
        release="v7",
        folder="v7",
        human=("oidv7-" + _V4_LABELS,),
        marker="oidv7-" + _V4_LABELS,
        machine=("oidv7-" + _V4_MACHINE,),
        classes=("oidv7-classes-trainable.txt", "classes-trainable.txt"),
        descriptions=("oidv7-class-descriptions.csv", "class-descriptions.csv"),
        images=("oidv6-{split}-images-with-labels-with-rotation.csv", *_V4_IMAGES),
    ),
    # What this project writes itself: corrections and reviewed candidates, one CSV per split.
    Layout(
        release="export",
        folder="export[a-z0-9_.-]*",
        human=("{split}/corrections.csv", "{any}{split}.csv"),
        marker="{any}{split}(?:/corrections)?.csv",
    ),
)


def matches(pattern: str, split: str, file: DumpFile) -> bool:
    """Whether a file's location ends as the pattern says."""
    expression = pattern.replace(".", r"\.").replace("{any}", _ANY_PREFIX)
    return bool(
        re.search(f"(^|/){expression.replace('{split}', _SPELLINGS[split])}$", file.location)
    )


def readable(pattern: str, split: str) -> str:
    """The pattern as a person would write it."""
    return pattern.replace("{any}", "*").replace("{split}", split)


def at_home(layout: Layout, file: DumpFile) -> bool:
    """Whether the file lies in the folder that its release was published in."""
    return bool(re.search(f"(^|/)({layout.folder})/", file.location))


def is_boxable(file: DumpFile) -> bool:
    """Whether a file of labels is cut to the classes that have boxes."""
    return file.name.endswith("-boxable.csv")


def is_split_folder(name: str) -> bool:
    """Whether a folder is named as a split is."""
    return any(re.fullmatch(spelling, name) for spelling in _SPELLINGS.values())


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
