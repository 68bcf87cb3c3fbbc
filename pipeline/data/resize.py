"""Resize images to squares on the CPU, bilinear and antialiased: torchvision's pixels, exactly.

DALI's own resize gives nearly the same and takes several times as long there
(`benchmarks/data/loader.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Pixels = npt.NDArray[np.uint8]


def squash(image_HWC: Pixels, size: int) -> Pixels:
    """Resize a uint8 image (H, W, 3) to (size, size, 3), ignoring its aspect ratio."""
    # torch recognises channels last, and is fast at it, only where the batch dimension comes first.
    image_BCHW = torch.from_numpy(image_HWC)[None].permute(0, 3, 1, 2)
    square_BCHW = F.interpolate(image_BCHW, size=(size, size), mode="bilinear", antialias=True)
    return square_BCHW.permute(0, 2, 3, 1)[0].numpy()


class Squash:
    """Resize the images of a batch, for DALI's Python operator.

    Args:
        size: both output sides, in pixels.
        threads: images resized at once.
    """

    def __init__(self, size: int, threads: int) -> None:
        self._size, self._threads = size, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="squash")

    def __call__(self, images: Sequence[Pixels]) -> list[Pixels]:
        """Resize uint8 images (H, W, 3) of any sizes to (size, size, 3)."""
        # A task per thread, not per image: handing one over costs as much as half a resize.
        parts = [images[first :: self._threads] for first in range(self._threads)]
        squares: list[Pixels] = [*images]
        for first, part in enumerate(self._pool.map(self._squashed, parts)):
            squares[first :: self._threads] = part
        return squares

    def _squashed(self, images: Sequence[Pixels]) -> list[Pixels]:
        return [squash(image_HWC, self._size) for image_HWC in images]
