"""Shrink a JPEG to a shorter side in several ways, and measure their PSNR."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from sharding.shards.transcode import ImagePolicy, transcode

SIDE, QUALITY = 256, 90


def size_for(height: int, width: int) -> tuple[int, int]:
    """Compute (width, height) with the shorter side at `SIDE`."""
    scale = SIDE / min(height, width)
    return round(width * scale), round(height * scale)


def by_opencv(data: bytes) -> bytes:
    """Decode whole, resize with INTER_AREA, encode: img2dataset's core."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    small = cv2.resize(image, size_for(*image.shape[:2]), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def by_pillow(data: bytes) -> bytes:
    """Decode whole, resize with Lanczos, encode: most projects' preparation script."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    out = io.BytesIO()
    small = image.resize(size_for(image.height, image.width), Image.Resampling.LANCZOS)
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def by_shard_job(data: bytes) -> bytes:
    """Shrink as the shard job does."""
    return bytes(transcode(data, ImagePolicy(shorter_side=SIDE, quality=QUALITY)).data)


def codec_limit(images: list[bytes]) -> Callable[[], None]:
    """Make a call that only entropy-decodes the originals and encodes the small pictures."""
    small = [simplejpeg.decode_jpeg(by_opencv(data), "RGB") for data in images]

    def run() -> None:
        for data, pixels in zip(images, small, strict=True):
            simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
            simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", "420")

    return run


def psnr(shrink: Callable[[bytes], bytes], images: list[bytes]) -> float:
    """Compute the mean PSNR in dB against Pillow's Lanczos resize before encoding."""
    values = []
    for data in images:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        wanted = image.resize(size_for(image.height, image.width), Image.Resampling.LANCZOS)
        result = Image.open(io.BytesIO(shrink(data)))
        error = np.asarray(result, np.float64) - np.asarray(wanted, np.float64)
        values.append(10 * np.log10(255**2 / np.mean(error**2)))
    return float(np.mean(values))
