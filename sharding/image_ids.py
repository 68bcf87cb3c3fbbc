"""Convert image ids between 16 lowercase hex characters (files) and uint64 keys (memory).

Ids stay text until they pass through here: type inference of CSV readers turns ids that are all
digits, or look like `00000000000123e5`, into numbers.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharding.errors import InputError

Ids = npt.NDArray[np.uint64]
"""Image ids as keys in memory."""
LENGTH = 16

_IMAGE_FILE = re.compile(
    rf"(?:.*/)?([0-9a-f]{{{LENGTH}}})(\.jpe?g|\.jpe|\.jfif)", re.DOTALL | re.IGNORECASE
)
_IS_HEX = np.zeros(256, np.bool_)
_IS_HEX[list(b"0123456789abcdef")] = True
_FIX = "keep the id column as text; type inference turns some ids into numbers"


def parse_id_column(column: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Parse a string or binary column: (keys_N uint64, valid_N bool); invalid ids get key 0."""
    valid_N = np.asarray(pc.equal(pc.binary_length(column), LENGTH).fill_null(False))
    keys_N = np.zeros(len(column), np.uint64)
    if not valid_N.any():
        return keys_N, valid_N
    whole = column if valid_N.all() else column.filter(pa.array(valid_N))
    texts_M16 = _characters(whole).reshape(-1, LENGTH)
    hex_M = _IS_HEX[texts_M16].all(axis=1)
    if not hex_M.all():
        valid_N[np.flatnonzero(valid_N)[~hex_M]] = False
        texts_M16 = texts_M16[hex_M]
    packed = binascii.unhexlify(np.ascontiguousarray(texts_M16).data)
    keys_N[valid_N] = np.frombuffer(packed, ">u8")
    return keys_N, valid_N


def parse_image_ids(texts: Sequence[str] | pa.Array) -> npt.NDArray[np.uint64]:
    """Parse 16-character lowercase hex ids into uint64 keys, in the order given.

    Raises:
        InputError: naming the first id that is not 16 lowercase hex characters.
    """
    column = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    keys_N, valid_N = parse_id_column(column)
    if not valid_N.all():
        first = column[int(np.argmin(valid_N))].as_py()
        raise InputError(f"image id {first!r} is not 16 lowercase hex characters", fix=_FIX)
    return keys_N


def parse_image_file(path: str) -> tuple[str, str] | None:
    """Split the path of ``<id>.jpg`` into id and ending as written; None where it is no such.

    Upper case, ``.jpeg``, ``.jpe`` and ``.jfif`` are accepted.
    """
    named = _IMAGE_FILE.fullmatch(path)
    return None if named is None else (named[1], named[2])


def format_id_column(keys_N: npt.NDArray[np.uint64]) -> pa.StringArray:
    """Format keys as zero-padded lowercase hex, without a Python loop."""
    texts = binascii.hexlify(np.asarray(keys_N).astype(">u8").tobytes())
    offsets = np.arange(len(keys_N) + 1, dtype=np.int32) * LENGTH
    return pa.StringArray.from_buffers(len(keys_N), pa.py_buffer(offsets), pa.py_buffer(texts))


def format_image_ids(keys_N: npt.NDArray[np.uint64]) -> list[str]:
    """Format keys as zero-padded lowercase hex texts."""
    return format_id_column(keys_N).to_pylist()


class IdIndex:
    """Find the row of a key in a list of N distinct ones: image ids, or packed label entries.

    Args:
        keys_N: integers in any order. Where a key is repeated its first row counts.
    """

    def __init__(self, keys_N: npt.NDArray[np.integer]) -> None:
        self._rows_N = np.argsort(keys_N, kind="stable")
        self._keys_N = keys_N[self._rows_N]

    def __len__(self) -> int:
        return len(self._keys_N)

    def rows_of(self, keys_B: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Look up the row of each key (of the same dtype), -1 where it is not listed."""
        if not len(self._keys_N):
            return np.full(len(keys_B), -1, np.int64)
        slots_B = np.searchsorted(self._keys_N, keys_B)
        slots_B = np.minimum(slots_B, len(self._keys_N) - 1)
        return np.where(self._keys_N[slots_B] == keys_B, self._rows_N[slots_B], -1)

    def repeated(self) -> npt.NDArray[np.integer]:
        """List the keys that stand more than once."""
        return self._keys_N[1:][self._keys_N[1:] == self._keys_N[:-1]]

    def row_of(self, key: int) -> int:
        """Look up the row of one key, -1 where it is not listed."""
        return int(self.rows_of(np.array([key], self._keys_N.dtype))[0])

    def __contains__(self, key: int) -> bool:
        return self.row_of(key) >= 0


def _characters(column: pa.Array) -> npt.NDArray[np.uint8]:
    """View the bytes of a string or binary array that holds no nulls, as one uint8 array."""
    _, offsets_buffer, data = column.buffers()
    wide = column.type in (pa.large_string(), pa.large_binary())
    offsets = np.frombuffer(offsets_buffer, np.int64 if wide else np.int32)
    begin, end = offsets[column.offset], offsets[column.offset + len(column)]
    return np.frombuffer(data, np.uint8)[begin:end]
