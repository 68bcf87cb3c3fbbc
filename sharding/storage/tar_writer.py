"""Write POSIX ustar archives in one pass, together with their DALI index and their hash.

`tarfile` builds an object and three small writes per member, and writes PAX headers with float
times that DALI skips with samples lost; here a header is a copied template with three fields
filled in, and a sample is one `writev`. Layout: POSIX.1-1988, as Python's `USTAR_FORMAT` writes it
with mode 0644 and every number 0, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Sequence

from sharding.storage.retry import Buffer

BLOCK = 512
_RECORD = 20 * BLOCK
_ZEROS = bytes(_RECORD)
_NAME_BYTES = 100
_LARGEST = 8**11 - 1
# A header of no name and size 0, around its fields name, size and checksum.
_TEMPLATE = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_MODE_AND_OWNER, _TIME, _TYPE_TO_END = _TEMPLATE[100:124], _TEMPLATE[136:148], _TEMPLATE[156:]
_SUM = sum(_MODE_AND_OWNER + _TIME + _TYPE_TO_END) + 8 * ord(" ")


def header(name: bytes, size: int) -> bytes:
    """Make the 512-byte header of a regular file.

    Raises:
        ValueError: the name is longer than 100 bytes, or the size needs more than 11 octal digits.
    """
    if len(name) > _NAME_BYTES or size > _LARGEST:
        raise ValueError(f"{name!r} of {size} bytes does not fit a ustar header")
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_SUM + sum(name) + sum(digits))
    name = name.ljust(_NAME_BYTES, b"\0")
    return b"".join((name, _MODE_AND_OWNER, digits, _TIME, checksum, _TYPE_TO_END))


class IndexedTar:
    """Appends samples to an open file; ends it with `finish`.

    A sample is a key and its components; the index has one line for each, as `wds2idx` v1.2 has.
    """

    def __init__(self, descriptor: int, *, hashed: bool = True) -> None:
        self._descriptor = descriptor
        self._digest = hashlib.sha256() if hashed else None
        self._lines: list[str] = []
        self.size = 0

    @property
    def samples(self) -> int:
        """Number of samples written."""
        return len(self._lines)

    def add(self, key: str, components: Sequence[tuple[str, Buffer]]) -> None:
        """Append one sample of (extension, content) components.

        Raises:
            OSError: the file cannot grow.
        """
        parts: list[Buffer] = []
        fields = []
        position = self.size
        for extension, content in components:
            name = f"{key}.{extension}"
            parts += (header(name.encode(), len(content)), content)
            fields.append(f"{extension} {position + BLOCK} {len(content)} {name}")
            padding = -len(content) % BLOCK
            if padding:
                parts.append(_ZEROS[:padding])
            position += BLOCK + len(content) + padding
        self._write(parts)
        self._lines.append(" ".join(fields))

    def finish(self) -> None:
        """Write the end of the archive: two zero blocks, filled up to a record of 20."""
        self._write([_ZEROS[: 2 * BLOCK]])
        self._write([_ZEROS[: -self.size % _RECORD]])

    @property
    def sha256(self) -> str:
        """SHA-256 of everything written, empty where none was asked for."""
        return self._digest.hexdigest() if self._digest else ""

    def index(self) -> bytes:
        """Format the DALI index: a header line, then offset, size and name of every component."""
        return "\n".join([f"v1.2 {len(self._lines)}", *self._lines, ""]).encode()

    def _write(self, parts: Sequence[Buffer]) -> None:
        if self._digest is not None:
            for part in parts:
                self._digest.update(part)
        total = sum(map(len, parts))
        written = os.writev(self._descriptor, parts)
        self.size += total
        if written < total:  # a full disk, a signal, or more than 2 GiB
            rest = memoryview(b"".join(parts))[written:]
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
