"""Read the files of a tar in one pass; damage is an error.

Python's `tarfile` alone ends in silence where a header in the middle is damaged or the archive is
cut off between two files, and keeps every member it saw.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, BinaryIO

from sharding.storage.tar_writer import BLOCK


class _StrictMember(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictMember:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == BLOCK and not any(buf):  # the end of the archive
                raise
            reason = "cut off" if len(buf) < BLOCK else f"no tar header: {error}"
            raise tarfile.ReadError(reason) from None


def read_members(stream: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Yield each regular file in the archive's order: its header, and a stream of its content.

    Args:
        stream: at the archive's beginning; it is sought forwards only, so that a `GzipFile` may be
            it, if a content is read before the next file is asked for.

    Raises:
        tarfile.ReadError: the archive is cut off or is no tar; reading a content raises the same.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictMember) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    yield member, content
    except tarfile.ReadError as error:
        raise tarfile.ReadError(f"{error}, at byte {stream.tell():,}") from None
