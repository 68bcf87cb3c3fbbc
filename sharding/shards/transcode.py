"""Transcode an image file to an upright RGB JPEG that every decoder reads, or say why not.

An undecodable image ends a DALI pipeline for good, so each image is decoded in full here, once
(`sharding.decode` and `sharding.jpeg` say what is accepted).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from sharding import decode, jpeg
from sharding.decode import MAX_PIXELS
from sharding.errors import InputError
from sharding.jpeg import Pixels
from sharding.log import first_line
from sharding.storage.retry import BadImage, Buffer

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
    """JPEG bytes (three components, upright), and what was done: "kept", "mended", "shrunk", ..."""

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
        MachineError: memory is short.
    """
    if not policy.check:
        return Transcoded(data=data, how="kept")
    if not len(data):
        raise BadImage("empty file")
    made = jpeg.with_mending(data, lambda whole: _transcoded(whole, policy, degrees))
    is_mended = made.how == "kept" and made.data is not data
    return dataclasses.replace(made, how="mended") if is_mended else made


def _transcoded(data: Buffer, policy: ImagePolicy, degrees: int) -> Transcoded:
    if not jpeg.is_jpeg(data):
        return _converted(data, policy, degrees)
    header = jpeg.read_header(data, policy.max_pixels)
    target = _target(header.height, header.width, policy)
    if header.is_cmyk:
        jpeg.decode(data, "CMYK", 1, 1)  # Pillow, which converts it, is lenient
        return _converted(data, policy, degrees)
    is_grey = header.colours == "Gray"
    if target is None and header.orientation == 1 and degrees <= 0 and not is_grey:
        # An eighth of the size and no colour: decodes all of the stream and little else.
        jpeg.decode(data, "GRAY", 1, 1)
        return Transcoded(data=data, how="kept")
    if target is None:
        pixels_HWC = jpeg.decode(data, "RGB", header.height, header.width)
        how = "from grayscale" if is_grey else "turned"
    else:
        least = _least(header.height, header.width, *target)
        pixels_HWC = _resize(jpeg.decode(data, "RGB", *least), *target)
        how = "shrunk"
    upright_HWC = decode.turn(pixels_HWC, header.orientation, degrees)
    return Transcoded(data=_encode(upright_HWC, policy), how=how)


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
        raise BadImage(f"cannot be a JPEG: {first_line(error, 120)}") from None


def _converted(data: Buffer, policy: ImagePolicy, degrees: int) -> Transcoded:
    """Decode anything that is no ordinary JPEG, and encode it as one."""
    pixels_HWC, orientation, kind = decode.decode_other(data, policy.max_pixels)
    pixels_HWC = decode.turn(pixels_HWC, orientation, degrees)
    target = _target(pixels_HWC.shape[0], pixels_HWC.shape[1], policy)
    if target is not None:
        pixels_HWC = _resize(pixels_HWC, *target)
    return Transcoded(data=_encode(pixels_HWC, policy), how=f"from {kind}")
