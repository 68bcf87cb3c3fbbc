"""One thing that is wrong with a dataset, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass

REPAIR = "repeat this command with --repair"
WITH_IMAGES = "repeat this command with --repair --images and the folder of the images"


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: of the file, relative to the dataset.
        what: is wrong.
        fix: how to mend it.
        kind: "tar", "index", "record", "labels", "beside", "quarantine", "derived", "orphan" or
            "stranger".
    """

    path: str
    what: str
    fix: str
    kind: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. Fix: {self.fix}"
