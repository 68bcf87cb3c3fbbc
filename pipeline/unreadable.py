"""Images that went bad after sharding: found, named, and left out while the epoch goes on.

Sharding accepts only what DALI decodes, so this is a disk's doing. A DALI pipeline does not
survive such an image and does not say which it was; the samples that were due are therefore
decoded one by one. The bad one's index entry is then pointed at a neighbour's bytes
(`indexes.redirected`): counts, order and reader positions stay as they are, and the loader drops
the row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline import graph, indexes

_AHEAD = 4
"""Batches decoded in advance at most, so that a failure may concern a later one."""


@dataclass(frozen=True, kw_only=True)
class BadImage:
    """A member of a tar whose bytes cannot be decoded; ``sha256`` is these bytes'."""

    tar: Path
    member: str
    sha256: str


def find(reading: graph.Reading, done: int, device_id: int | None) -> list[BadImage]:
    """The samples that cannot be decoded, of those next in line after ``done`` batches."""
    found = []
    for number, (names, data) in enumerate(graph.encoded(reading)):
        if number >= done + _AHEAD:
            break
        if number >= done:
            for name, jpeg in zip(names, data, strict=True):
                if not graph.decodes(jpeg, device_id):
                    tar, _, member = name.rsplit(":", 2)
                    sha256 = hashlib.sha256(jpeg.tobytes()).hexdigest()
                    found.append(BadImage(tar=Path(tar), member=member, sha256=sha256))
    return found


def is_as_found(image: BadImage) -> bool:
    """Whether this process would read the very bytes that could not be decoded."""
    index = image.tar.with_suffix(".idx")
    if not (index.is_file() and image.tar.is_file()):
        return False
    for row in indexes.rows(index):
        if row[3] == image.member:
            with image.tar.open("rb") as tar:
                tar.seek(int(row[1]))
                return hashlib.sha256(tar.read(int(row[2]))).hexdigest() == image.sha256
    return False
