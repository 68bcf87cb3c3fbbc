"""Read the files and links of a tar in one pass; damage is an error.

Python's `tarfile` ends in silence where a header in the middle is damaged or the archive is cut off
between two files, keeps every member it saw, stops at the first end mark of archives joined by
`cat`, and up to 3.11 loops on a negative size. It parses the headers here; what follows from them
is read strictly.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from sharding.storage.tar_writer import BLOCK

LONGEST_EXTENSION = 1 << 20
"""Bytes of a long name or of PAX records; real ones have a few thousand at most."""
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_EXTENSIONS = (*_PAX, tarfile.XGLTYPE, *_LONG)
_NO_FILES = (*tarfile.SUPPORTED_TYPES, b"D", b"M", b"N", b"V")
"""Types that are known and no regular file; GNU's are folders, parts of files, names and labels."""
_SPARSE, _SPARSE_NAME = "GNU.sparse", "GNU.sparse.name"
_KEYWORDS = (b"path", b"linkpath", b"size", _SPARSE_NAME.encode())
_LARGEST = 1 << 62
_MAGIC, _SEARCHED = 257, 1 << 20
_SPARSE_GOES_ON, _SPARSE_BLOCK_GOES_ON = 482, 504
"""Bytes of an old GNU sparse header, and of blocks behind it, that say that more follow."""


class MemberContent(io.RawIOBase):
    """The bytes of one file, to be read once, before the next member is asked for.

    Args:
        stream: of the archive, at the file's first byte.
        size: of the file.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        super().__init__()
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        """Tell that it can be read, for what buffers it."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to a buffer's length into it; return how much."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes, all that are left by default; empty at the end.

        Raises:
            tarfile.ReadError: the archive is cut off.
        """
        wanted = self._left if size < 0 else min(size, self._left)
        content = self._stream.read(wanted)
        if wanted and not content:
            raise tarfile.ReadError("unexpected end of data")
        self._left -= len(content)
        return content


def is_link(member: tarfile.TarInfo) -> bool:
    """Tell a hard or symbolic link from a file."""
    return member.islnk() or member.issym()


def read_members(stream: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, MemberContent | None]]:
    """Yield each regular file and link in the archive's order, and the content of each file.

    A member of an unknown type is a file, as POSIX says. A link has no content, nor has a file that
    is stored as sparse, whose parts do not follow each other. Archives joined to one file are read
    to the last; other bytes behind the end mark are ignored, as long as no header is among them.

    Args:
        stream: at the archive's beginning; it is sought forwards only, so that a `GzipFile` may be
            it.

    Raises:
        tarfile.ReadError: the archive is cut off or is no tar; reading a content raises the same.
    """
    try:
        for member in _members(stream):
            is_file = member.isreg() or member.type not in _NO_FILES
            if is_file and not member.issparse():
                yield member, MemberContent(stream, member.size)
            elif is_file or is_link(member):
                yield member, None
    except (tarfile.TarError, OverflowError) as error:
        raise tarfile.ReadError(f"{error}, at byte {stream.tell():,}") from None


def _members(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members with their extensions applied."""
    position = stream.tell()
    of_all: dict[str, str] = {}
    extensions: dict[str, str] = {}
    is_ended = False
    while head := _read_block(stream, position, may_end=is_ended):
        if not any(head):
            if extensions:
                raise tarfile.ReadError("no member after its long name or PAX records")
            position, is_ended = position + BLOCK, True
            continue
        if is_ended and not _goes_on(head, stream):
            return
        member, is_ended = _parse(head), False
        data = position + BLOCK
        if member.type in _EXTENSIONS:
            records = _extension(member, stream)
            if member.type == tarfile.XGLTYPE:
                of_all.update(records)
            else:  # of two that name the same, the first counts, as in tarfile
                extensions = {**records, **extensions}
            position = data + _padded(member.size)
            continue
        is_sparse = member.type == tarfile.GNUTYPE_SPARSE
        is_extended = is_sparse and head[_SPARSE_GOES_ON]
        while is_extended:
            is_extended = _read_block(stream, data)[_SPARSE_BLOCK_GOES_ON]
            data += BLOCK
        _apply({**of_all, **extensions}, member, is_sparse=is_sparse)
        member.offset, member.offset_data, extensions = position, data, {}
        has_data = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        yield member
        position = data + (_padded(member.size) if has_data else 0)


def _read_block(stream: BinaryIO, position: int, *, may_end: bool = False) -> bytes:
    """Read the block at a position; empty where no whole one is there and it ``may_end`` there."""
    try:
        if stream.tell() != position:
            stream.seek(position)
        block = stream.read(BLOCK)
    except gzip.BadGzipFile as error:
        if not may_end or not str(error).startswith("Not a gzipped file"):  # a CRC may be wrong
            raise
        block = b""
    if len(block) < BLOCK and not may_end:
        raise tarfile.ReadError("cut off")
    return block if len(block) == BLOCK else b""


def _goes_on(head: bytes, stream: BinaryIO) -> bool:
    """Find out whether a header is or follows this block, which was read behind an end mark.

    Behind junk it means that the end mark was a hole in the middle.
    """
    with contextlib.suppress(tarfile.ReadError):
        return bool(_parse(head))
    while True:
        for magic in re.finditer(b"ustar", head):
            with contextlib.suppress(tarfile.ReadError):
                return bool(_parse(head[max(0, magic.start() - _MAGIC) :][:BLOCK]))
        if not (more := stream.read(_SEARCHED)):
            return False
        head = head[1 - BLOCK :] + more


def _parse(head: bytes) -> tarfile.TarInfo:
    try:
        member = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise tarfile.ReadError(f"no tar header: {error}") from None
    return _with_size(member, member.size)


def _with_size(member: tarfile.TarInfo, size: int) -> tarfile.TarInfo:
    if not 0 <= size < _LARGEST:
        raise tarfile.ReadError(f"a file of {size:.3g} bytes")
    member.size = size
    return member


def _extension(member: tarfile.TarInfo, stream: BinaryIO) -> dict[str, str]:
    """Read the records of a PAX header, or the long name of a GNU one as such a record."""
    if member.size > LONGEST_EXTENSION:
        raise tarfile.ReadError(f"a long name or PAX records of {member.size:,} bytes")
    content = stream.read(_padded(member.size))
    if len(content) < _padded(member.size):
        raise tarfile.ReadError("cut off")
    if keyword := _LONG.get(member.type):
        return {keyword: _text(content.partition(b"\0")[0])}
    return _pax_records(content[: member.size])


def _pax_records(content: bytes) -> dict[str, str]:
    """Read records of ``LENGTH KEYWORD=VALUE`` and a line feed, each of the length it says."""
    records: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position]:
        digits = content[position : position + 8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = content[position : position + length]
        keyword, equals, value = record[len(digits) + 1 :].partition(b"=")
        if not keyword or not equals or not value.endswith(b"\n") or len(record) < length:
            raise tarfile.ReadError(f"no PAX record: {content[position : position + 40]!r}")
        if keyword in _KEYWORDS:
            records[_text(keyword)] = _text(value[:-1])
        elif keyword.startswith(b"GNU.sparse."):
            records[_SPARSE] = ""
        position += length
    return records


def _apply(records: Mapping[str, str], member: tarfile.TarInfo, *, is_sparse: bool) -> None:
    """Replace what the records replace; ``sparse`` of the member only says whether it is."""
    is_sparse |= _SPARSE in records or _SPARSE_NAME in records
    member.sparse = [] if is_sparse else None  # type: ignore[assignment]
    member.name = records.get(_SPARSE_NAME, records.get("path", member.name))
    member.linkname = records.get("linkpath", member.linkname)
    if size := records.get("size"):
        if not size.isdecimal() or len(size) > 20:
            raise tarfile.ReadError(f"a PAX size of {size[:20]!r}")
        _with_size(member, int(size))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
