"""The file names of Open Images V3 to V7, as one table.

Source: the published file names (READMEV3 and the download pages of V4 to V7). The header of the
image-label files never changed, so a release is recognised by its names alone. V4 and V5 have the
same names; only the folder they were published in (`2018_04`, `v5`) tells them apart. V6 re-issued
the train labels only: its validation and test labels are V5's. V7 writes `val` for `validation`.
Files named `-boxable` hold the labels of the 600 classes that have boxes; they are taken for a
split whose whole labels are not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sharding.dumpfiles import DumpFile

SPLITS = ("train", "validation", "test")
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
