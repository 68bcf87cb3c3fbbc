"""Recognise the release of a dump, V3 to V7, from the names of its files.

Source of the names: READMEV3 and the download pages of V4 to V7. The header of the image-label
files never changed, so a release is recognised by its names alone. V4 and V5 have the same names;
only the folder they were published in (`2018_04`, `v5`) tells them apart. V6 re-issued the train
labels only: its validation and test labels are V5's. V7 writes `val` for `validation`. Files named
`-boxable` hold the labels of the 600 classes that have boxes; they serve for a split whose full
label file is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sharding.errors import InputError, unknown
from sharding.layout import SPLITS
from sharding.openimages.dump_files import DumpFile

_SPELLINGS = {"train": "train", "validation": "(?:validation|val)", "test": "test"}

_ANY_PREFIX = "(?:[^/]*[-_.])?"
_SECOND = re.compile(r"(?: ?\(\d+\)| copy(?: \d+)?)(?=\.[^/]*$)")
"""What browsers and desktops put before the ending of a file whose name is taken."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The file names of one release, as patterns over the end of a location.

    ``{split}`` matches the spellings of a split; of several patterns the first that finds a file
    wins.

    Attributes:
        release: "v3" ... "v7" or "export".
        folder: where the release was published (a regular expression).
        human: files of human-verified labels.
        marker: the layout fits only where this is found, in any split.
        machine: files of machine labels.
        classes: the trainable class list.
        descriptions: names of the classes.
        images: image lists.
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
"""Name of the one image list that is not of a single split."""

_LABELS = "{split}-annotations-human-imagelabels.csv"
_BOXABLE = "{split}-annotations-human-imagelabels-boxable.csv"
_MACHINE = "{split}-annotations-machine-imagelabels.csv"
_LISTS = (
    "{split}-images-with-labels-with-rotation.csv",
    "{split}-images-with-rotation.csv",
    "{split}-images-boxable-with-rotation.csv",
    ALL_SPLITS_LIST,
)

# As FiftyOne's zoo unpacks V6 and V7.
IN_SPLIT = "/labels/classifications.csv"
_FIFTYONE = "{split}" + IN_SPLIT
_FIFTYONE_NAMES = "{split}/metadata/classes.csv"

_V4 = Layout(
    release="v4",
    folder="2018_04",
    human=(_LABELS, _BOXABLE),
    marker="{split}-annotations-human-imagelabels(?:-boxable)?.csv",
    machine=(_MACHINE,),
    images=_LISTS,
)
_V6 = Layout(
    release="v6",
    folder="v6|v5|open-images-v6",
    human=("oidv6-" + _LABELS, _LABELS, _BOXABLE, _FIFTYONE),
    marker=f"(?:oidv6-train-annotations-human-imagelabels.csv|{_FIFTYONE})",
    machine=("oidv6-" + _MACHINE, _MACHINE),
    classes=("oidv6-classes-trainable.txt", "classes-trainable.txt"),
    descriptions=("oidv6-class-descriptions.csv", "class-descriptions.csv", _FIFTYONE_NAMES),
    images=("oidv6-{split}-images-with-labels-with-rotation.csv", *_LISTS),
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
    _V4,
    replace(_V4, release="v5", folder="v5"),
    _V6,
    replace(
        _V6,
        release="v7",
        folder="v7|open-images-v7",
        human=("oidv7-" + _LABELS, _FIFTYONE),
        marker=f"(?:oidv7-{_LABELS}|{_FIFTYONE})",
        machine=("oidv7-" + _MACHINE,),
        classes=("oidv7-classes-trainable.txt", "classes-trainable.txt"),
        descriptions=("oidv7-class-descriptions.csv", "class-descriptions.csv", _FIFTYONE_NAMES),
    ),
    # What this project writes itself: corrections and reviewed candidates, one CSV per split.
    Layout(
        release="export",
        folder="export[a-z0-9_.-]*",
        human=("{split}/corrections.csv", "{any}{split}.csv"),
        marker="{any}{split}(?:/corrections)?.csv",
    ),
)
RELEASES = tuple(layout.release for layout in LAYOUTS)

Fit = tuple[Layout, dict[str, DumpFile]]
"""A layout that fits a folder, and its label files by split."""


def matches(pattern: str, split: str, file: DumpFile) -> bool:
    """Test whether a file's location ends as the pattern says."""
    expression = pattern.replace(".", r"\.").replace("{any}", _ANY_PREFIX)
    return bool(
        re.search(f"(^|/){expression.replace('{split}', _SPELLINGS[split])}$", file.location)
    )


def readable(pattern: str, split: str) -> str:
    """Format the pattern as a person would write it."""
    return pattern.replace("{any}", "*").replace("{split}", split)


def at_home(layout: Layout, file: DumpFile) -> bool:
    """Test whether the file is in the folder that its release was published in."""
    return bool(re.search(f"(^|/)({layout.folder})/", file.location))


def is_boxable(file: DumpFile) -> bool:
    """Test whether a file of labels is cut to the classes that have boxes."""
    return file.name.endswith("-boxable.csv")


def is_split_folder(name: str) -> bool:
    """Test whether a folder is named as a split is."""
    return any(re.fullmatch(spelling, name) for spelling in _SPELLINGS.values())


def recognise(root: Path, files: Sequence[DumpFile], release: str | None) -> Fit:
    """Find the one layout that fits, and its label files by split.

    Args:
        root: named in errors.
        files: all files of the dump.
        release: one of `RELEASES`, or None to find out.

    Raises:
        InputError: no layout fits, several do, or two files claim the same split.
    """
    if release is not None and release not in RELEASES:
        raise unknown("release", release, RELEASES)
    asked = [layout for layout in LAYOUTS if release in (None, layout.release)]
    fits = [(layout, _label_files(root, files, layout)) for layout in asked]
    fits = [fit for fit in fits if fit[1]]
    best = [fit for fit in fits if not any(_supersedes(other, fit) for other in fits)]
    if len(best) == 1:
        return best[0]
    if not best:
        _refuse_second_download(root, files, asked)
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


def _refuse_second_download(root: Path, files: Sequence[DumpFile], asked: Sequence[Layout]) -> None:
    """Name a file that only the number of a second download keeps from being found."""
    for file in files:
        meant = replace(file, location=_SECOND.sub("", file.location))
        if file.member is None and any(_label_files(root, [meant], layout) for layout in asked):
            raise InputError(
                f"no annotation dump found, only {file.path.name}, named as a second download",
                file=root,
                fix=f"rename it to {_SECOND.sub('', file.path.name)}, in a folder of its own",
            )


def _label_files(root: Path, files: Sequence[DumpFile], layout: Layout) -> dict[str, DumpFile]:
    """Find label files by split, train first; none where the layout does not fit."""
    if not any(matches(layout.marker, split, file) for split in SPLITS for file in files):
        return {}
    label_files = {}
    for split in SPLITS:
        for pattern in layout.human:
            matching = [file for file in files if matches(pattern, split, file)]
            if matching:
                home = [file for file in matching if at_home(layout, file)]
                label_files[split] = _least_packed(root, split, home or matching)
                break
    return label_files


def _least_packed(root: Path, split: str, matching: Sequence[DumpFile]) -> DumpFile:
    """Choose the least packed file; two that are packed alike are an error."""
    first, *others = sorted(matching, key=lambda file: file.packing)
    if others and others[0].packing == first.packing:
        raise InputError(
            f"two files claim to be the {split} labels: {first} and {others[0]}",
            file=root,
            fix="give the folder of one dump",
        )
    return first


def _supersedes(other: Fit, fit: Fit) -> bool:
    """Test whether ``other`` explains all files of ``fit``, and more of them or better.

    Files cut to boxable classes do not count: full ones are better.
    """
    (other_layout, other_files), (layout, files) = other, fit
    if layout.release == "export":
        return other_layout.release != "export"
    full, other_full = (
        {file for file in chosen.values() if not is_boxable(file)}
        for chosen in (files, other_files)
    )
    if full != other_full:
        return full < other_full
    return _all_at_home(other) and not _all_at_home(fit)


def _all_at_home(fit: Fit) -> bool:
    layout, files = fit
    return all(at_home(layout, file) for file in files.values())
