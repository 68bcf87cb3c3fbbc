"""Members of a tar, read in one pass from a file or a stream.

`tarfile` ends in silence where a header in the middle is damaged, and keeps every member it saw;
here the end-of-archive mark is required and nothing is kept.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from sharding.storage.tar_writer import BLOCK

_LONG_NAME, _EXTENDED, _GLOBAL = (b"L", b"x", b"g")
_LONGEST_HEADER = 1 << 20
_CHUNK = 1 << 20


class DamagedTar(Exception):
    """The archive is cut off or is no tar; ``str(error)`` says which."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A regular file in the archive: its name, and where its content lies, in bytes."""

    name: str
    offset: int
    size: int


class TarStream:
    """Iterates over the regular files of a tar; `copy` takes the content of the latest.

    Args:
        stream: at the archive's beginning. It is only read forwards, but what is passed over is
            skipped by `seek` where ``seekable``.
        seekable: whether skipping is cheaper than reading.
        length: of the archive in bytes, for finding out that it is cut off where nothing is read.
    """

    def __init__(self, stream: BinaryIO, *, seekable: bool = False, length: int = -1) -> None:
        self._stream, self._seekable, self._length = stream, seekable, length
        self._position = 0
        self._end = 0  # of the latest member's content, with padding

    def __iter__(self) -> Iterator[Member]:
        """Each regular file, in the archive's order.

        Raises:
            DamagedTar: the archive is cut off or is no tar.
        """
        long_name: str | None = None
        while True:
            self._skip(self._end - self._position)
            block = self._read(BLOCK)
            if not block.strip(b"\0"):
                return
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise DamagedTar(
                    f"no tar header at byte {self._position - BLOCK:,}: {error}"
                ) from None
            start, size = self._position, header.size if header.isreg() else 0
            kind = header.type
            if kind in (_LONG_NAME, _EXTENDED, _GLOBAL):
                content = self._read(min(header.size, _LONGEST_HEADER))
                size = header.size
                if kind != _GLOBAL:
                    long_name = _name_in(kind, content) or long_name
            self._end = start + size + -size % BLOCK
            if header.isreg():
                name, long_name = long_name or header.name, None
                yield Member(name=name, offset=start, size=size)

    def copy(self, member: Member, out: io.RawIOBase | BinaryIO) -> None:
        """Write the content of the member that was yielded last.

        Raises:
            DamagedTar: the archive ends within it.
        """
        left = member.size
        while left:
            left -= len(data := self._read(min(left, _CHUNK)))
            out.write(data)

    def _read(self, count: int) -> bytes:
        parts, left = [], count
        while left:
            data = self._stream.read(left)
            if not data:
                raise DamagedTar(f"cut off after {self._position + count - left:,} bytes")
            parts.append(data)
            left -= len(data)
        self._position += count
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        if self._seekable:
            self._position += count
            if 0 <= self._length < self._position:
                raise DamagedTar(f"cut off after {self._length:,} bytes")
            self._stream.seek(self._position)
            return
        while count:
            count -= len(self._read(min(count, _CHUNK)))


def _name_in(kind: bytes, content: bytes) -> str | None:
    """The name that a GNU long-name or a PAX header gives the next member."""
    if kind == _LONG_NAME:
        return content.rstrip(b"\0").decode("utf-8", "surrogateescape")
    while content.strip(b"\0"):
        length, _, _ = content.partition(b" ")
        record, content = content[: int(length)], content[int(length) :]
        key, _, value = record.partition(b" ")[2].rstrip(b"\n").partition(b"=")
        if key == b"path":
            return value.decode("utf-8", "surrogateescape")
    return None
