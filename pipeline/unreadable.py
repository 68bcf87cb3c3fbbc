"""Images that went bad after sharding: found, named, and left out while the epoch goes on.

Sharding accepts only what DALI decodes, so this is a disk's doing. A DALI pipeline does not
survive such an image and does not say which it was; the samples that were due are therefore
decoded one by one. The bad one's index entry is then pointed at a neighbour's bytes: counts,
order and reader positions stay as they are, and the loader drops the row.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from pathlib import Path

from pipeline import graph
from sharding.errors import InputError

_AHEAD = 4
"""Batches decoded in advance at most, so that a failure may concern a later one."""


def find(reading: graph.Reading, done: int, device_id: int | None) -> list[tuple[str, str]]:
    """(tar, member) of the samples that cannot be decoded, next in line after ``done`` batches."""
    found = []
    for number, (names, data) in enumerate(graph.encoded(reading)):
        if number >= done + _AHEAD:
            break
        if number >= done:
            for name, jpeg in zip(names, data, strict=True):
                if not graph.decodes(jpeg, device_id):
                    tar, _, member = name.rsplit(":", 2)
                    found.append((tar, member))
    return found


@functools.cache
def redirected(index: Path, members: frozenset[str]) -> Path:
    """A copy of a DALI index whose entries of ``members`` lead to the bytes of another image.

    The copy lasts as long as this process.

    Raises:
        InputError: no other image is left.
    """
    header, *lines = index.read_text().splitlines()
    # Our tars have the image first: "jpg OFFSET SIZE NAME json OFFSET SIZE NAME".
    rows = [line.split(" ") for line in lines]
    good = [row for row in rows if row[3] not in members]
    if not good:
        raise InputError(
            "no image of this tar can be decoded",
            file=index.with_suffix(".tar"),
            fix="run jobs/verify_dataset.py --repair",
        )
    for row in rows:
        if row[3] in members:
            row[1:3] = good[0][1:3]
    text = "\n".join([header, *(" ".join(row) for row in rows), ""])
    mark = hashlib.sha256(f"{index}\n{text}".encode()).hexdigest()[:16]
    copy = Path(_folder().name, f"{index.stem}-{mark}.idx")
    copy.write_text(text)
    return copy


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="openimages-indexes-")
