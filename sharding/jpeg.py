"""Read JPEGs with libjpeg-turbo in strict mode; tell what warns in vain from what lost pixels.

What DALI would refuse is refused, and what decodes in full is accepted: `mended` takes out of a
JPEG what draws a warning, or DALI's refusal, and holds no pixel. An image is not to blame where
memory is short.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from sharding.errors import MachineError
from sharding.log import first_line
from sharding.storage.retry import BadImage, Buffer

Pixels = npt.NDArray[np.uint8]
Result = TypeVar("Result")

MAX_PIXELS = 80_000_000
"""Of an image, if no other limit is given."""
_MAX_PIXELS_SCANNED = 2_000_000_000
"""Pixels times scans of a progressive JPEG; photographs have about ten scans."""
_MOST_SEGMENTS, _LONGEST_FILL = 10_000, 1 << 16
"""Of a JPEG's header, and of the fill bytes before one of them; cameras write a few hundred."""
_ORIENTATION_TAG = 0x112
_EXIF, _ICC = b"Exif\0\0", b"ICC_PROFILE\0"
_FILL, _APP1, _APP2, _START_OF_SCAN, _PROGRESSIVE = 0xFF, 0xE1, 0xE2, 0xDA, 0xC2
_SEQUENTIAL = (0xC0, 0xC1)
_NO_MEMORY = re.compile(r"(?i)\b(insufficient|out of) memory|memory allocation")
_BYTES_PER_PIXEL = 8
"""That decoding takes at most: a progressive JPEG's coefficients, its pixels."""
_USUAL_SIDE = 1024
"""Of a picture whose header is damaged."""
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))
_SCAN = re.compile(rb"\xff\xda")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a JPEG's header says.

    Attributes:
        height, width: in pixels, as stored.
        colours: libjpeg's colour space.
        orientation: of its EXIF block, 1..8.
    """

    height: int
    width: int
    colours: str
    orientation: int

    @property
    def is_cmyk(self) -> bool:
        """Whether Pillow has to convert the colours."""
        return self.colours in ("CMYK", "YCCK")


def is_jpeg(data: Buffer) -> bool:
    """Whether a file begins as a JPEG does."""
    return bytes(data[:3]) == b"\xff\xd8\xff"


def with_mending(data: Buffer, use: Callable[[Buffer], Result]) -> Result:
    """Call ``use`` with an image file; where it is refused, once more with the `mended` one."""
    try:
        return use(data)
    except BadImage:
        whole = mended(data) if is_jpeg(data) else None
        if whole is None:
            raise
        try:
            return use(whole)
        except BadImage:
            pass
        raise


def read_header(data: Buffer, max_pixels: int) -> Header:
    """Read a JPEG's header.

    Raises:
        BadImage: it is damaged, DALI would refuse it, or there are too many pixels or scans.
    """
    block, progressive = None, False
    for marker, start, end in _segments(data):
        if marker is None:
            raise BadImage("damaged JPEG header: bytes between its segments")
        progressive = progressive or marker == _PROGRESSIVE
        if block is None and marker == _APP1 and bytes(data[start + 4 : start + 10]) == _EXIF:
            block = bytes(data[start + 4 : end])
    orientation = orientation_in(functools.partial(_load_exif, block)) if block else 1
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise BadImage(f"damaged JPEG header: {first_line(error, 120)}") from None
    limit_pixels(width, height, max_pixels)
    if progressive and len(_SCAN.findall(data)) * width * height > _MAX_PIXELS_SCANNED:
        raise BadImage(f"too many scans of {width} x {height} pixels")
    return Header(height=height, width=width, colours=colours, orientation=orientation)


def decode(data: Buffer, colours: str, min_height: int = 0, min_width: int = 0) -> Pixels:
    """Decode a JPEG at the smallest eighth whose sides reach the minimum (scaled inverse DCT).

    Args:
        data: the file.
        colours: wanted, as simplejpeg names them.
        min_height, min_width: in pixels; 0 for the whole picture.

    Raises:
        BadImage: libjpeg warns, so that pixels may be lost.
        MachineError: memory is short.
    """
    try:
        return simplejpeg.decode_jpeg(
            data, colours, min_height=min_height, min_width=min_width, strict=True
        )
    except MemoryError as error:  # for pixels, whose number is limited
        raise _too_short(error) from None
    except ValueError as error:
        refuse_to_blame(error)
        raise BadImage(f"damaged JPEG: {first_line(error, 120)}") from None


def refuse_to_blame(error: Exception) -> None:
    """Raise `MachineError` where it was memory that a decoder lacked, not the image that is bad.

    A damaged file may ask for any amount: it is to blame if there is memory for `MAX_PIXELS`.
    """
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        try:
            np.empty(MAX_PIXELS * _BYTES_PER_PIXEL, np.uint8)
        except MemoryError:
            raise _too_short(error) from None


def _too_short(error: Exception) -> MachineError:
    return no_memory(f"memory is too short to decode images ({first_line(error, 120)})")


def no_memory(problem: str) -> MachineError:
    """Make the error of a machine on which no image can be decoded for the moment."""
    return MachineError(
        problem,
        fix="free memory on that machine, or give the job fewer workers; then repeat the command: "
        "what is finished is kept",
    )


def blank_like(data: Buffer, most_pixels: int = MAX_PIXELS) -> bytes:
    """Write a grey JPEG of the size and kind of another, whose header may be damaged.

    Decoding it takes as much memory as decoding the other one.

    Args:
        data: the other one.
        most_pixels: that it has at most; a damaged header may say anything.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        height = width = _USUAL_SIDE
    if height * width > most_pixels:
        height = width = int(most_pixels**0.5)
    progressive = any(marker == _PROGRESSIVE for marker, _, _ in _segments(data))
    return _blank(height, width, progressive)


@functools.lru_cache(maxsize=4)
def _blank(height: int, width: int, progressive: bool) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "JPEG", progressive=progressive)
    return buffer.getvalue()


def mended(data: Buffer) -> bytes | None:
    """Write a JPEG without what draws a warning and holds no pixel; None where there is nothing.

    That is: in the header markers without a segment and lengths below 2, a colour profile of which
    parts are missing (every profile goes), scan parameters that a sequential JPEG does not use,
    zeros before the end mark. Other bytes between segments may be what is left of a table.
    """
    parts, sequential, scan = [b"\xff\xd8"], False, len(data)
    for marker, start, end in _segments(data):
        sequential = sequential or marker in _SEQUENTIAL
        is_profile = marker == _APP2 and bytes(data[start + 4 : start + 16]) == _ICC
        if start == end:
            return None
        if marker is not None and not is_profile:
            parts.append(bytes(data[start:end]))
        scan = end
    body = bytearray(data[scan:])
    if sequential:
        for found in list(_SCAN.finditer(body)):
            last = found.end() + int.from_bytes(body[found.end() : found.end() + 2], "big")
            if last <= len(body):
                body[last - 3 : last] = b"\0\x3f\0"
    end = body.find(b"\xff\xd9")
    if end > 0:
        # Two zeros may be the last bits of the picture, or the second half of a stuffed byte.
        kept = len(body[:end].rstrip(b"\0")) + 2
        del body[min(kept, end) : end]
    whole = b"".join(parts) + bytes(body)
    return None if whole == data else whole


def _segments(data: Buffer) -> Iterator[tuple[int | None, int, int]]:
    """Walk a JPEG's header to its first scan: (marker, start, end), None for what is no segment.

    No thumbnail's EXIF can be taken for the picture's: those are inside of a segment. After bytes
    that belong to nothing there is no going on.
    """
    position = 2
    for _ in range(_MOST_SEGMENTS):
        if position + 4 > len(data):
            return
        if data[position] == data[position + 1] == _FILL:
            run = bytes(data[position : position + _LONGEST_FILL])
            position += len(run) - len(run.lstrip(b"\xff")) - 1
        if data[position] != _FILL or position + 4 > len(data):
            break
        marker = data[position + 1]
        if marker == _START_OF_SCAN:
            return
        if marker in _WITHOUT_LENGTH:
            yield None, position, position + 2
            position += 2
        else:
            length = data[position + 2] << 8 | data[position + 3]
            end = position + 2 + max(2, length)
            yield (marker if length >= 2 else None), position, end
            position = end
    yield None, position, position


def orientation_in(read: Callable[[], Image.Exif]) -> int:
    """Read the orientation in an EXIF block, 1..8; 1 where it makes no sense."""
    try:
        with warnings.catch_warnings(action="ignore"):
            value = read().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block is common and says nothing about the picture
        return 1
    return value if value in range(1, 9) else 1


def limit_pixels(width: int, height: int, most: int) -> None:
    """Refuse an image of too many pixels before memory is allocated for it."""
    if width * height > most:
        raise BadImage(f"too many pixels: {width} x {height}")


def _load_exif(segment: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(segment)
    return exif
