"""A remote object as a stream: read in ranges, each of them tried again where it fails.

A 50 GB archive takes longer than any connection lasts; a broken one costs a range, not the archive.
"""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from sharding.fetching import Fetching, patiently
from sharding.transport import transport_of

_RANGE = 8 << 20


class RangeStream(io.RawIOBase):
    """Reads a URL forwards; use `open`."""

    def __init__(self, url: str, length: int, fetching: Fetching) -> None:
        self._url, self._length, self._fetching = url, length, fetching
        self._transport = transport_of(url, fetching)
        self._position = 0

    @classmethod
    def open(cls, url: str, length: int, fetching: Fetching) -> BinaryIO:
        """A buffered stream of the object's ``length`` bytes.

        Reading raises `BadImage` where it is missing or refused, or every attempt failed.
        """
        return cast(BinaryIO, io.BufferedReader(cls(url, length, fetching), _RANGE))

    @staticmethod
    def length(url: str, fetching: Fetching) -> int:
        """Bytes of the object; raises `BadImage` as reading does."""
        return patiently(lambda: transport_of(url, fetching).size(url), fetching)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a part of the buffer."""
        count = min(len(buffer), self._length - self._position, _RANGE)
        if count <= 0:
            return 0
        data = patiently(
            lambda: self._transport.read_range(self._url, self._position, count), self._fetching
        )
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
