"""Describe what is wrong with a dataset: the file, what is wrong with it, how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sharding.dataset.label_versions import how_to_rewrite
from sharding.errors import REPEAT_COMMAND
from sharding.layout import SET_ASIDE_FOLDER

_REPAIR = "repeat this command with --repair"
_REPAIR_WITH_IMAGES = f"{_REPAIR} --images and the folder of the images"


class Kind(StrEnum):
    """Say what is broken, which decides how it is mended."""

    TAR = "tar"
    """A tar, or the index of a broken tar: written again from the images."""
    INDEX = "index"
    """The index of a tar that is intact: follows from the tar."""
    TAR_LABELS = "tar labels"
    """A label table whose labels are in the tars, which are intact: follows from them."""
    LABELS = "labels"
    """A label table that follows from its annotations only."""
    CONFIDENCES = "confidences"
    """A table of confidences, which follows from a machine's only."""
    SIDE_FILE = "side file"
    """A file that follows from dump and options."""
    QUARANTINE = "quarantine"
    """The table of what was set aside."""
    DERIVED = "derived"
    """A file that follows from the manifest."""
    ORPHAN = "orphan"
    """A file of a killed or replaced job, or a report that cannot be read: removed."""
    REPEATED = "repeated"
    """Images that are in two splits."""
    UNNAMED = "unnamed"
    """A finished tar that the manifest does not name: set aside with its index and record."""
    REMOVAL = "removal"
    """The manifest, which names images as removed that are still there."""
    STRANGER = "stranger"
    """A file of somebody else."""


_MENDABLE = (Kind.INDEX, Kind.TAR_LABELS, Kind.DERIVED, Kind.ORPHAN, Kind.UNNAMED)
_FIXES = {
    Kind.TAR: _REPAIR_WITH_IMAGES,
    Kind.INDEX: _REPAIR,
    Kind.TAR_LABELS: _REPAIR,
    Kind.LABELS: "",
    Kind.CONFIDENCES: "repeat the command that wrote them (reshard --confidences)",
    Kind.SIDE_FILE: REPEAT_COMMAND,
    Kind.QUARANTINE: f"{REPEAT_COMMAND}; "
    "annotation rows come back by repeating the command that set them aside",
    Kind.DERIVED: _REPAIR,
    Kind.ORPHAN: _REPAIR,
    Kind.UNNAMED: "put the dataset.json back that names it, or repeat the command that wrote it; "
    f"--repair moves it to {SET_ASIDE_FOLDER}/",
    Kind.REPEATED: "take them out of one of the splits, and make the dataset again elsewhere",
    Kind.REMOVAL: "repeat the remove command, which was broken off",
    Kind.STRANGER: "move it elsewhere, if nobody needs it here",
}


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """Describe one thing that is wrong.

    Attributes:
        path: of the file, relative to the dataset.
        what: is wrong.
        kind: of the file, and so of the fix.
        labels: name of the label version that has to be written again, before anything else is
            done about it; empty if none has to.
    """

    path: str
    what: str
    kind: Kind
    labels: str = ""

    @property
    def is_mendable(self) -> bool:
        """Whether `--repair` mends it without images."""
        return self.kind in _MENDABLE

    @property
    def fix(self) -> str:
        """Say how to mend it."""
        first = how_to_rewrite(self.labels) if self.labels else ""
        return ", then ".join(filter(None, (first, _FIXES[self.kind])))

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. Fix: {self.fix}"
