"""Which way is up: the EXIF orientation of a JPEG, and turning pixels accordingly."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

_ORIENTATION = 0x112
_EXIF = b"Exif\0\0"
_START_OF_SCAN = 0xDA

Pixels = npt.NDArray[np.uint8]


def exif_orientation(data: bytes | bytearray | memoryview) -> int:
    """EXIF orientation of a JPEG, 1..8; 1 where there is none or it makes no sense.

    Walks the segments before the first scan, so that no thumbnail's EXIF can be taken for it.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _START_OF_SCAN:
            break
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = data[position + 2] << 8 | data[position + 3]
        if marker == 0xE1 and bytes(data[position + 4 : position + 10]) == _EXIF:
            segment = bytes(data[position + 4 : position + 2 + length])
            return orientation_in(functools.partial(_loaded, segment))
        position += 2 + length
    return 1


def upright(orientation: int, degrees: int) -> bool:
    """Whether `turn` would leave the pixels as they are."""
    return orientation == 1 and degrees <= 0


def turn(pixels_HWC: Pixels, orientation: int, degrees: int) -> Pixels:
    """Turn pixels upright: by EXIF where it says so, else ``degrees`` counter-clockwise.

    Source of the eight orientations: the EXIF 2.32 standard, tag 0x0112.
    """
    if orientation == 1:
        return np.rot90(pixels_HWC, max(degrees, 0) // 90)
    if orientation in (5, 6, 7, 8):
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    return pixels_HWC


def orientation_in(read: Callable[[], Image.Exif]) -> int:
    """Orientation in the EXIF block that ``read`` gives, 1..8; 1 where it makes no sense."""
    try:
        value = read().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block is common and says nothing about the picture
        return 1
    return value if value in range(1, 9) else 1


def _loaded(segment: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(segment)
    return exif
