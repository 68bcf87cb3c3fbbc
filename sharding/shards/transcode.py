"""Transcode an image file to an upright RGB JPEG that every decoder reads, or say why not.

An undecodable image ends a DALI pipeline for good, so each image is decoded in full here, once.
libjpeg-turbo in strict mode is the judge: what it decodes without a warning, DALI's CPU decoder
accepts. What it decodes with a warning has lost pixels and is refused.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from sharding.errors import InputError
from sharding.storage.retry import BadImage, Buffer

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 80_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
_ORIENTATION_TAG = 0x112
_EXIF = b"Exif\0\0"
_START_OF_SCAN = 0xDA
# What runs in parallel is shards; OpenCV's threads would only wait for one another.
cv2.setNumThreads(1)


@dataclass(frozen=True, kw_only=True)
class ImagePolicy:
    """What is done to the pixels.

    Attributes:
        shorter_side: larger images are shrunk to this shorter side in pixels; None keeps the
            bytes of every image that needs no conversion.
        quality: JPEG quality of what is encoded anew.
        max_pixels: images of more are refused before they are decoded.
        check: decode every image in full; False trusts the source and keeps its bytes unseen.
    """

    shorter_side: int | None = None
    quality: int = 90
    max_pixels: int = MAX_PIXELS
    check: bool = True

    def __post_init__(self) -> None:
        if self.shorter_side is not None and not 8 <= self.shorter_side <= 8192:
            raise InputError(
                f"shorter side {self.shorter_side} is not in 8..8192", fix="choose 256 or 512"
            )
        if not 1 <= self.quality <= 100:
            raise InputError(f"JPEG quality {self.quality} is not in 1..100", fix="choose 90")
        if not self.check and self.shorter_side is not None:
            raise InputError("shrinking decodes every image", fix="leave out the trust option")

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> ImagePolicy:
        """Read the policy that a manifest stores."""
        fields = {key: value for key, value in record.items() if key != "mode"}
        return cls(**fields, check=record.get("mode") != "trust")

    def record(self) -> Mapping[str, Any]:
        """Convert to plain values, as the manifest stores them."""
        mode = "keep" if self.shorter_side is None else "shrink"
        return {
            "mode": mode if self.check else "trust",
            "shorter_side": self.shorter_side,
            "quality": self.quality,
            "max_pixels": self.max_pixels,
        }


@dataclass(frozen=True, kw_only=True)
class Transcoded:
    """JPEG bytes (three components, upright), and what was done: "kept", "shrunk", "turned", ..."""

    data: Buffer
    how: str


def transcode(data: Buffer, policy: ImagePolicy, degrees: int = 0) -> Transcoded:
    """Check an image and encode it as the policy asks for.

    Args:
        data: the file's bytes; kept ones are returned as the same object.
        policy: size, quality and limits.
        degrees: counter-clockwise turn known from the dump (`sharding.openimages.rotations`), 0 or
            less for none. An EXIF orientation describes the same turn and takes its place.

    Raises:
        BadImage: it cannot be decoded in full, or has too many pixels.
    """
    if not policy.check:
        return Transcoded(data=data, how="kept")
    if not len(data):
        raise BadImage("empty file")
    if bytes(data[:3]) != b"\xff\xd8\xff":
        return _converted(data, policy, degrees)
    height, width, colours, _ = _header(data)
    _limit_pixels(width, height, policy)
    orientation = _exif_orientation(data)
    target = _target(height, width, policy)
    if colours in ("CMYK", "YCCK"):
        _decode(data, "CMYK", 1, 1)  # Pillow, which converts it, is lenient
        return _converted(data, policy, degrees)
    if target is None and orientation == 1 and degrees <= 0 and colours != "Gray":
        # An eighth of the size and no colour: decodes all of the stream and little else.
        _decode(data, "GRAY", 1, 1)
        return Transcoded(data=data, how="kept")
    if target is None:
        pixels_HWC = _decode(data, "RGB", height, width)
        how = "from grayscale" if colours == "Gray" else "turned"
    else:
        pixels_HWC = _resize(_decode(data, "RGB", *_least(height, width, *target)), *target)
        how = "shrunk"
    return Transcoded(data=_encode(_turn(pixels_HWC, orientation, degrees), policy), how=how)


def _header(data: Buffer) -> tuple[int, int, str, str]:
    try:
        return simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise BadImage(f"damaged JPEG header: {_reason(error)}") from None


def _decode(data: Buffer, colours: str, min_height: int, min_width: int) -> Pixels:
    """Decode at the smallest eighth whose sides reach the minimum (scaled inverse DCT)."""
    try:
        return simplejpeg.decode_jpeg(
            data, colours, min_height=min_height, min_width=min_width, strict=True
        )
    except ValueError as error:
        raise BadImage(f"damaged JPEG: {_reason(error)}") from None


def _target(height: int, width: int, policy: ImagePolicy) -> tuple[int, int] | None:
    """Compute the (height, width) to shrink to, None where the image is small enough."""
    short, side = min(height, width), policy.shorter_side
    if side is None or short <= side:
        return None
    return max(1, round(height * side / short)), max(1, round(width * side / short))


def _least(height: int, width: int, min_height: int, min_width: int) -> tuple[int, int]:
    """Compute the (height, width) to decode at least, for a picture of at least the minimum.

    Where it can be halved that is the half, fourth or eighth: libjpeg-turbo has vector instructions
    for these scales, and none for the eighths between. Above the half the next eighth is best:
    decoded in full, the picture would have details that a blur does not take out.
    """
    for parts in (8, 4, 2):
        part = -(-height // parts), -(-width // parts)
        if part[0] >= min_height and part[1] >= min_width:
            return part
    return min_height, min_width


def _resize(pixels_HWC: Pixels, height: int, width: int) -> Pixels:
    """Shrink, bicubic and antialiased: by Pillow, above one half by a blur, ten times as fast."""
    ratio = pixels_HWC.shape[0] / height
    if pixels_HWC.shape[:2] == (height, width):
        return pixels_HWC
    if ratio > 2:
        image = Image.fromarray(pixels_HWC)
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    if ratio > 1.2:
        # Of the widths between 0.3 and 0.6 those that come nearest to Lanczos, to 0.02 pixels.
        blurred = cv2.GaussianBlur(pixels_HWC, (3, 3), 0.37 * ratio - 0.125)
        pixels_HWC = np.asarray(blurred, np.uint8)
    resized = cv2.resize(pixels_HWC, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def _encode(pixels_HWC: Pixels, policy: ImagePolicy) -> bytes:
    pixels_HWC = np.ascontiguousarray(pixels_HWC)
    try:
        return simplejpeg.encode_jpeg(pixels_HWC, policy.quality, "RGB", "420")
    except ValueError as error:  # a side that no JPEG can have
        raise BadImage(f"cannot be a JPEG: {_reason(error)}") from None


def _converted(data: Buffer, policy: ImagePolicy, degrees: int) -> Transcoded:
    """Decode anything that is no ordinary JPEG with Pillow, and encode it as one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _limit_pixels(*image.size, policy)
                kind = "CMYK" if image.mode == "CMYK" else str(image.format)
                pixels_HWC = _to_rgb(image)
                orientation = _orientation_in(image.getexif)  # loading a TIFF already turned it
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise BadImage(f"not an image: begins with {bytes(data[:8])!r}") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise BadImage(f"damaged image: {_reason(error)}") from None
    pixels_HWC = _turn(pixels_HWC, orientation, degrees)
    target = _target(pixels_HWC.shape[0], pixels_HWC.shape[1], policy)
    if target is not None:
        pixels_HWC = _resize(pixels_HWC, *target)
    return Transcoded(data=_encode(pixels_HWC, policy), how=f"from {kind}")


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith(("I", "F")):  # Pillow would clip 16 bits to 255
        values_HW = np.asarray(image, np.float64)
        scale = 257.0 if image.mode.startswith("I;16") or values_HW.max(initial=0) > 255 else 1.0
        gray_HW = np.clip(values_HW / scale, 0, 255).astype(np.uint8)
        return np.repeat(gray_HW[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _limit_pixels(width: int, height: int, policy: ImagePolicy) -> None:
    if width * height > policy.max_pixels:
        raise BadImage(f"too many pixels: {width} x {height}")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def _exif_orientation(data: Buffer) -> int:
    """Read the EXIF orientation of a JPEG, 1..8; 1 where there is none or it makes no sense.

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
            return _orientation_in(functools.partial(_load_exif, segment))
        position += 2 + length
    return 1


def _turn(pixels_HWC: Pixels, orientation: int, degrees: int) -> Pixels:
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


def _orientation_in(read: Callable[[], Image.Exif]) -> int:
    """Read the orientation in an EXIF block, 1..8; 1 where it makes no sense."""
    try:
        value = read().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block is common and says nothing about the picture
        return 1
    return value if value in range(1, 9) else 1


def _load_exif(segment: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(segment)
    return exif
