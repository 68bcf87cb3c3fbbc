"""DALI indexes, and copies of them that say something else: other bytes, or fewer images.

The copies last as long as this process.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from sharding.errors import InputError
from sharding.storage import locks


def rows(index: Path) -> list[list[str]]:
    """The fields of every image. Ours have the JPEG first: "jpg OFFSET SIZE NAME json ..."."""
    return [line.split(" ") for line in index.read_text().splitlines()[1:]]


@functools.cache
def redirected(index: Path, members: frozenset[str]) -> Path:
    """A copy of a DALI index whose entries of ``members`` lead to the bytes of another image.

    Raises:
        InputError: no other image is left.
    """
    entries = rows(index)
    good = [row for row in entries if row[3] not in members]
    if not good:
        raise InputError(
            "no image of this tar can be decoded",
            file=index.with_suffix(".tar"),
            fix="run jobs/verify_dataset.py --repair",
        )
    for row in entries:
        if row[3] in members:
            row[1:3] = good[0][1:3]
    return _copy(index, entries)


@functools.cache
def cut(index: Path, first: int, count: int) -> Path:
    """A DALI index with ``count`` images from image ``first`` on: a copy unless that is all."""
    entries = rows(index)
    return index if count == len(entries) else _copy(index, entries[first : first + count])


def _copy(index: Path, entries: Sequence[Sequence[str]]) -> Path:
    version = index.read_text().split(" ", 1)[0]
    text = "\n".join([f"{version} {len(entries)}", *(" ".join(row) for row in entries), ""])
    mark = hashlib.sha256(f"{index}\n{text}".encode()).hexdigest()[:16]
    copy = locks.scratch_directory() / f"{index.stem}-{mark}.idx"
    copy.write_text(text)
    return copy
