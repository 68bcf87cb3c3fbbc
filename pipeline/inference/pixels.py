"""Read an image from anywhere into the pixels a network takes, without DALI.

For a baseline JPEG they are, bit for bit, those of an evaluation on CPUs. A GPU decodes and resizes
with other roundings.
"""

from __future__ import annotations

import http.client
import io
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline import storage
from pipeline.data.resize import squash
from sharding.errors import InputError

ImageLike = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
"""A path or URL, an encoded image, a Pillow image, or uint8 pixels (H, W) or (H, W, 3)."""
_TIMEOUT_SECONDS = 30
_HEADERS = {"User-Agent": "openimages-boostlu"}
"""Some servers refuse Python's default name."""
_LEGAL = "%/?:@!$&'()*+,;=[]"
"""Characters allowed in a URL's path and query beside letters and digits; % begins an escape."""


def square(source: ImageLike, size: int) -> npt.NDArray[np.uint8]:
    """Decode an image as uint8 RGB (size, size, 3), upright, squashed to a square.

    Raises:
        InputError: it cannot be read, or is no image.
    """
    return squash(np.array(_opened(source)), size)


def read(location: str | Path) -> bytes:
    """Read the bytes at a path, an http(s) URL or a bucket URL.

    Raises:
        InputError: nothing can be read there.
    """
    url = str(location)
    try:
        if url.lower().startswith(("http://", "https://")):
            request = urllib.request.Request(_quoted(url), headers=_HEADERS)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
                return answer.read()
        return storage.read_bytes(url)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(
            f"cannot be read ({_first_line(error)})", file=url, fix="check path or URL"
        ) from None


def _quoted(url: str) -> str:
    """Escape a URL as a browser does; existing escapes stay."""
    parts = urlsplit(url)
    path, query = (quote(part, safe=_LEGAL) for part in (parts.path, parts.query))
    return parts._replace(path=path, query=query).geturl()


def _opened(source: ImageLike) -> Image.Image:
    """Open an image as upright RGB.

    Raises:
        InputError: it cannot be read or decoded; names it.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] not in ((), (3,)) or source.ndim < 2:
            raise InputError(
                f"array of {source.dtype} {source.shape} is no image",
                fix="pass uint8 pixels (H, W, 3) or (H, W)",
            )
        return Image.fromarray(source).convert("RGB")
    name = "image bytes" if isinstance(source, bytes) else str(source)
    content = read(source) if isinstance(source, (str, Path)) else source
    try:
        image = Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # Pillow raises many kinds, for a broken EXIF still others
        known = not isinstance(error, UnidentifiedImageError)
        reason = _first_line(error) if known else "unknown format"
        raise InputError(
            f"not an image that can be decoded ({reason})",
            file=name,
            fix="pass JPEG, PNG or another format that Pillow reads",
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
