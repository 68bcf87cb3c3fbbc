"""Make thumbnails and texts for an HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
import re

from PIL import Image

_SIZES = ((320, 80), (320, 60), (240, 60), (200, 50), (160, 45), (128, 40))
"""(pixels of the longer side, WebP quality), the best first; the first that fits is taken."""


def thumbnail(photo: Image.Image, most_bytes: int) -> str:
    """Shrink a photograph to the best data URI below so many bytes, or to the smallest there is."""
    for side, quality in _SIZES:
        small = photo.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        uri = data_uri(small, quality)
        if len(uri) < most_bytes:
            break
    return uri


def breakable(text: str) -> str:
    """Escape a text for HTML so that its URLs wrap at a slash, not within a word."""
    return re.sub(r"(?<=\w)/(?=\w)", "/<wbr>", html.escape(text))


def data_uri(image: Image.Image, quality: int | None = None) -> str:
    """Encode as a WebP data URI, without loss where no quality is given."""
    buffer = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality}
    image.save(buffer, "WEBP", **options)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
