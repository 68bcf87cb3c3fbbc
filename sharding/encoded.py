"""An encoded image on its way, and the error that says why it is of no use."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview

MISSING = "missing"
"""Reason of a `BadImage` that is not there at all."""


class BadImage(Exception):
    """The image cannot be used; ``str(error)`` is the reason, on one line."""
