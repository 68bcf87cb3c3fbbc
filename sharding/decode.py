"""Decode image files to upright RGB pixels: the one reader of sharding, prediction and review.

Formats and limits are those of this module wherever a picture is read. An ordinary JPEG is decoded
by libjpeg-turbo (`sharding.jpeg`), everything else by Pillow.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from sharding import jpeg
from sharding.jpeg import Pixels, limit_pixels, orientation_in
from sharding.log import first_line
from sharding.storage.retry import BadImage, Buffer, limit_bytes

MAX_PIXELS = jpeg.MAX_PIXELS
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".ppm", ".avif"),
)
"""Of files that are taken for images where a folder holds other files, too; in lower case."""
_MAX_PIXELS_SLOWLY = 4_000_000
"""Of encodings that Pillow decodes in Python, at a second per million pixels."""
_SLOW_CODECS = ("ppm", "ppm_plain", "bmp_rle")
_ROWS = 256


def read(data: Buffer, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an image file as upright uint8 RGB pixels (H, W, 3).

    Pixels of a JPEG are those of DALI's CPU decoder, bit for bit.

    Raises:
        BadImage: it is none of `FORMATS`, cannot be decoded in full, or is beyond a limit.
        MachineError: memory is short.
    """
    limit_bytes(len(data))
    return jpeg.with_mending(data, lambda whole: _read(whole, max_pixels))


def _read(data: Buffer, max_pixels: int) -> Pixels:
    if jpeg.is_jpeg(data):
        header = jpeg.read_header(data, max_pixels)
        if not header.is_cmyk:
            return turn(jpeg.decode(data, "RGB"), header.orientation)
        jpeg.decode(data, "CMYK", 1, 1)
    pixels_HWC, orientation, _ = decode_other(data, max_pixels)
    return turn(pixels_HWC, orientation)


def decode_other(data: Buffer, max_pixels: int) -> tuple[Pixels, int, str]:
    """Decode with Pillow what is no ordinary JPEG; return pixels, EXIF orientation and format.

    Raises:
        BadImage, MachineError: as of `read`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                limit_pixels(*image.size, max_pixels)
                if any(tile[0] in _SLOW_CODECS for tile in image.tile):
                    limit_pixels(*image.size, min(max_pixels, _MAX_PIXELS_SLOWLY))
                kind = "CMYK" if image.mode == "CMYK" else str(image.format)
                pixels_HWC = to_rgb(image)
                if image.format == "JPEG":
                    image.info.pop("xmp", None)  # which turns no other JPEG either
                return pixels_HWC, orientation_in(image.getexif), kind  # loading turned a TIFF
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise BadImage(f"not an image: begins with {bytes(data[:8])!r}") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        jpeg.refuse_to_blame(error)
        raise BadImage(f"damaged image: {first_line(error, 120)}") from None


def read_pillow(image: Image.Image) -> Pixels:
    """Convert a Pillow image to upright uint8 RGB pixels (H, W, 3).

    Raises:
        BadImage: it is lazily read, and cannot be decoded in full.
        MachineError: memory is short.
    """
    try:
        return turn(to_rgb(image), orientation_in(image.getexif))
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        jpeg.refuse_to_blame(error)
        raise BadImage(f"damaged image: {first_line(error, 120)}") from None


def to_rgb(image: Image.Image) -> Pixels:
    """Convert a Pillow image to uint8 RGB (H, W, 3): transparent parts on white, 16 bits to 8."""
    if image.mode.startswith(("I", "F")):  # Pillow would clip them to 255
        return np.repeat(_grey(image)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return np.asarray(image.convert("RGB"))


def _grey(image: Image.Image) -> Pixels:
    """Scale grey values of more than 8 bits to 0..255, by the range that they seem to have."""
    values_HW = np.asarray(image)
    largest = float(np.nanmax(values_HW, initial=0))
    if image.mode.startswith("I;16") or 255 < largest <= 65535:
        scale = 257.0
    elif largest > 65535:
        scale = largest / 255
    else:
        scale = 1 / 255 if image.mode == "F" and largest <= 1 else 1.0
    grey_HW = np.empty(values_HW.shape, np.uint8)
    for row in range(0, len(grey_HW), _ROWS):  # float64 of a whole picture would be 640 MB
        part = np.nan_to_num(values_HW[row : row + _ROWS].astype(np.float64)) / scale
        grey_HW[row : row + _ROWS] = np.clip(part, 0, 255)
    return grey_HW


def turn(pixels_HWC: Pixels, orientation: int, degrees: int = 0) -> Pixels:
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
