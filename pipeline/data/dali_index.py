"""Compare a tar with its DALI index; edit copies: point entries at other bytes, keep a part.

An index names the bytes of every image in a tar. Copies last as long as this process.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from sharding.errors import InputError, how_to_repair
from sharding.storage import locks

_HEADER_BYTES = 512
"""Of a tar member, in front of its content; the name comes first."""
_TAIL_BYTES = 8192
"""Of an index, more than the entry of one image."""


@functools.cache
def redirected(index: Path, members: frozenset[str]) -> Path:
    """Copy a DALI index with the entries of ``members`` pointing at the first of `others`."""
    entries = _read(index)
    other, *_ = (entry for entry in entries if entry[3] not in members)
    for entry in entries:
        if entry[3] in members:
            entry[1:3] = other[1:3]
    return _copy(index, entries)


def others(tar: Path, index: Path, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Read the images of a tar, but for ``members``, in the order of its index: (name, JPEG)."""
    with tar.open("rb") as file:
        for _, offset, size, name, *_ in _read(index):
            if name not in members:
                file.seek(int(offset))
                yield name, file.read(int(size))


@functools.cache
def cut(index: Path, first: int, count: int) -> Path:
    """Cut a DALI index to ``count`` images from image ``first`` on; itself if that is all."""
    entries = _read(index)
    return index if count == len(entries) else _copy(index, entries[first : first + count])


def refuse_other_tar(tar: Path, index: Path, size: int | None = None) -> None:
    """Check that a tar is there, is whole, and has the last image where its index says.

    Args:
        tar: of the images.
        index: its DALI index.
        size: of the tar in bytes; None to compare it with the end of the last image.

    Raises:
        InputError: it is not the tar of that index.
    """
    _, offset, length, name = _last_entry(index)[:4]
    try:
        present = tar.stat().st_size
        with tar.open("rb") as file:
            file.seek(int(offset) - _HEADER_BYTES)
            named = file.read(len(name)).decode(errors="replace")
    except FileNotFoundError:
        wrong = "the manifest names this file, but it is missing"
    else:
        end = int(offset) + int(length)
        if present < end or size not in (None, present):
            wrong = f"{present:,} bytes, not {size or end:,}"
        elif named != name:
            wrong = f"{name} is not where its index says"
        else:
            return
    raise InputError(wrong, file=tar, fix=how_to_repair(tar))


def _read(index: Path) -> list[list[str]]:
    """Read the fields of every image. Ours have the JPEG first: "jpg OFFSET SIZE NAME json ..."."""
    return [line.split(" ") for line in index.read_text().splitlines()[1:]]


def _last_entry(index: Path) -> list[str]:
    """Read the fields of the last image alone: there may be a hundred thousand."""
    with index.open("rb") as file:
        file.seek(max(0, index.stat().st_size - _TAIL_BYTES))
        fields = file.read().decode(errors="replace").splitlines()[-1:]
    entry = "".join(fields).split(" ")
    if len(entry) < 4:
        raise InputError("the index names no image", file=index, fix=how_to_repair(index))
    return entry


def _copy(index: Path, entries: Sequence[Sequence[str]]) -> Path:
    version = index.read_text().split(" ", 1)[0]
    text = "\n".join([f"{version} {len(entries)}", *(" ".join(entry) for entry in entries), ""])
    digest = hashlib.sha256(f"{index}\n{text}".encode()).hexdigest()[:16]
    with locks.scratch_space():
        copy = locks.scratch_directory() / f"{index.stem}-{digest}.idx"
        copy.write_text(text)
    return copy
