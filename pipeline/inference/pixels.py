"""Read an image from anywhere into the pixels a network takes, without DALI.

For a JPEG they are, bit for bit, those of an evaluation on CPUs. A GPU decodes and resizes with
other roundings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline import storage
from pipeline.data.resize import squash
from sharding import decode
from sharding.errors import InputError, MachineError
from sharding.log import first_line
from sharding.storage.object_store import ObjectStore
from sharding.storage.retry import BadImage, Buffer, RetriesExhausted, RetryPolicy, limit_bytes

ImageLike = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
"""A path or URL, an encoded image, a Pillow image, or uint8 pixels (H, W) or (H, W, 3)."""
UNREAD = "cannot be read"
"""How the problem of an image begins whose bytes could not be had: another try may get them."""
_POLICY = RetryPolicy(tries=3)


class Unanswered(InputError):
    """Report an image whose host did not answer in any attempt."""


def square(source: ImageLike, size: int) -> npt.NDArray[np.uint8]:
    """Decode an image as uint8 RGB (size, size, 3), upright, squashed to a square.

    Raises:
        InputError: it cannot be read, or is no image.
    """
    return squash(upright(source), size)


def attempt(source: ImageLike, size: int) -> npt.NDArray[np.uint8] | InputError:
    """Decode an image as `square` does, or return what is wrong with it.

    Raises:
        MachineError: memory is short, and no image is to blame.
    """
    try:
        return square(source, size)
    except MachineError:
        raise
    except InputError as error:
        return error


def upright(source: ImageLike) -> npt.NDArray[np.uint8]:
    """Decode an image as upright uint8 RGB (H, W, 3).

    Raises:
        InputError: it cannot be read or decoded; names it.
        MachineError: memory is short.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] not in ((), (3,)) or source.ndim < 2:
            raise InputError(
                f"array of {source.dtype} {source.shape} is no image",
                fix="pass uint8 pixels (H, W, 3) or (H, W)",
            )
        return np.array(Image.fromarray(source).convert("RGB"))
    content = read(source) if isinstance(source, (str, Path)) else source
    try:
        if isinstance(content, Image.Image):
            pixels_HWC = decode.read_pillow(content)
        else:
            pixels_HWC = decode.read(content)
    except BadImage as bad:
        raise InputError(
            f"not an image that can be decoded ({str(bad).removeprefix('not an image: ')})",
            file=str(source) if isinstance(source, (str, Path)) else "image bytes",
            fix=f"pass a whole {', '.join(decode.FORMATS)}",
        ) from None
    return np.require(pixels_HWC, requirements=["C", "W"])


def read(location: str | Path) -> Buffer:
    """Read the bytes at a path, an http(s) URL or a bucket URL, as the shard job does.

    Raises:
        InputError: nothing can be read there.
    """
    url = str(location)
    try:
        if "://" in url and not url.startswith("file:"):
            return ObjectStore(url=url, policy=_POLICY).read()
        with storage.open_file(url) as file:
            limit_bytes(file.seek(0, 2))
            file.seek(0)
            return file.read()
    except (OSError, ValueError, BadImage, InputError) as error:
        kind = Unanswered if isinstance(error, RetriesExhausted) else InputError
        raise kind(
            f"{UNREAD} ({first_line(error, 120)})", file=url, fix="check path or URL"
        ) from None
