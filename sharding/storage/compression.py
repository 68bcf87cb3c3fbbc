"""Recognise compressed files and archives by their first bytes, not their names, and open them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, BinaryIO, cast

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
"""Endings of archives; how one is packed is told by its content."""
UNREAD_ARCHIVES = (".tar.zst", ".tzst", ".7z", ".rar")
"""Endings of archives that are named in an error, as they are not read."""
_DECOMPRESS: dict[bytes, Callable[[BinaryIO], object]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
_ZIP = (b"PK\3\4", b"PK\5\6")
_UNREAD = {b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z", b"Rar!": "rar"}
HEAD = 8
"""Bytes of a file that `is_zip` and the others look at."""

DAMAGE = (
    *(EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(zipfile.BadZipFile, zipfile.LargeZipFile),
    NotImplementedError,  # of zipfile: a compression method that it does not know
)
"""What reading a damaged file raises; of bz2 it is an OSError without a number."""


def is_zip(head: bytes) -> bool:
    """Tell a zip."""
    return head.startswith(_ZIP)


def is_plain(head: bytes) -> bool:
    """Tell what is neither compressed nor a zip."""
    return not head.startswith((*_DECOMPRESS, *_ZIP, *_UNREAD))


def unread(head: bytes) -> str | None:
    """Name a format that is not read here; None for all others."""
    return next((name for magic, name in _UNREAD.items() if head.startswith(magic)), None)


def open_member(pack: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open a member of a zip.

    Raises:
        zipfile.BadZipFile: it is encrypted or damaged.
    """
    if pack.getinfo(name).flag_bits & 1:
        raise zipfile.BadZipFile(f"{name} is encrypted")
    return pack.open(name)


def decompressed(stream: BinaryIO, head: bytes) -> BinaryIO:
    """Decompress a stream that begins with ``head``; the stream itself where it is plain."""
    for magic, decompress in _DECOMPRESS.items():
        if head.startswith(magic):
            return cast(BinaryIO, decompress(stream))
    return stream
