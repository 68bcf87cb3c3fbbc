"""An encoded image on its way, and the error that says why it is of no use."""

from __future__ import annotations

import os

Buffer = bytes | bytearray | memoryview

MISSING = "missing"
"""Reason of a `BadImage` that is not there at all."""
LARGEST_IMAGE = 1 << 28
"""Bytes; the largest original of Open Images has 15 MB."""


class BadImage(Exception):
    """The image cannot be used; ``str(error)`` is the reason, on one line."""


def limit_bytes(size: int) -> None:
    """Refuse what is too large for an image before room is made for it.

    Raises:
        BadImage: it is.
    """
    if size > LARGEST_IMAGE:
        raise BadImage(f"more than {LARGEST_IMAGE:,} bytes")


class ReadBuffer:
    """What one image after another is read into: a fresh one costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(1 << 20))

    def read(self, descriptor: int, offset: int, size: int) -> memoryview:
        """The ``size`` bytes from ``offset`` on, fewer where the file ends; valid until the next.

        Raises:
            BadImage: no image has so many.
            OSError: they cannot be read.
        """
        limit_bytes(size)
        if size > len(self._memory):
            self._memory = memoryview(bytearray(2 * size))
        filled = 0
        while filled < size:
            count = os.preadv(descriptor, [self._memory[filled:size]], offset + filled)
            if not count:
                break
            filled += count
        return self._memory[:filled]
