"""Draw backgrounds, and the imperfections of lens, sensor and JPEG; shape H, W, C = 3."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from sharding.synthetic.paint import Canvas

Image = npt.NDArray[np.uint8]
_Background = Callable[[int, int, np.random.Generator], Canvas]

_LOWEST_QUALITY, _HIGHEST_QUALITY = 60, 96


def background(width: int, height: int, rng: np.random.Generator) -> Canvas:
    """Draw a background in muted colours, so that nothing in it looks like an object."""
    base = rng.uniform(70, 185) + rng.normal(0, 11, 3)
    slope_x, slope_y = rng.normal(0, 28, 2)
    gradient_HW = np.add.outer(
        np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(slope_y),
        np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(slope_x),
    )
    canvas_HWC = gradient_HW[..., None] + base.astype(np.float32)
    canvas_HWC += _BACKGROUNDS[int(rng.integers(len(_BACKGROUNDS)))](width, height, rng)
    return canvas_HWC


def expose(canvas_HWC: Canvas, rng: np.random.Generator) -> Image:
    """Apply blur, brightness, white balance and noise; return uint8 RGB (H, W, 3)."""
    sigma = rng.uniform(0.0, 0.9)
    if sigma > 0.3:  # below, the kernel is one pixel
        canvas_HWC = np.asarray(cv2.GaussianBlur(canvas_HWC, (0, 0), sigma), np.float32)
    light = rng.uniform(0.78, 1.15) * rng.normal(1, 0.025, 3)
    noise_HWC = rng.standard_normal(canvas_HWC.shape, np.float32)
    noise_HWC *= np.float32(rng.uniform(1, 6))
    noise_HWC += canvas_HWC * light.astype(np.float32)
    return np.clip(noise_HWC, 0, 255).astype(np.uint8)


def develop(image_HWC: Image, rng: np.random.Generator) -> bytes:
    """Encode an RGB image as JPEG, of varying quality."""
    quality = int(rng.integers(_LOWEST_QUALITY, _HIGHEST_QUALITY))
    bgr_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def _clouds(width: int, height: int, rng: np.random.Generator) -> Canvas:
    cells = int(rng.integers(2, 7))
    return _resize(rng.normal(0, 13, (cells, cells, 3)), width, height)


def _rough(width: int, height: int, rng: np.random.Generator) -> Canvas:
    """Draw grey noise on several scales, like plaster, sand or asphalt."""
    cells = np.array([6, 12, 24, 48])
    layers = [_resize(rng.normal(0, 32 / n**0.5, (n, n, 1)), width, height) for n in cells.tolist()]
    return np.add.reduce(layers)[..., None]


def _planks(width: int, height: int, rng: np.random.Generator) -> Canvas:
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.15)
    across_HW = _positions(width, height, angle) / rng.uniform(0.14, 0.3)
    board_HW = np.floor(across_HW).astype(np.int32)
    tones = rng.normal(0, 13, (64, 1)) + rng.normal(0, 3, (64, 3))
    seam_HW = np.minimum(1, 14 * np.minimum(across_HW - board_HW, board_HW + 1 - across_HW))
    grain = rng.normal(0, 6, (64, 8, 1)) if angle < np.pi / 4 else rng.normal(0, 6, (8, 64, 1))
    planks_HWC = tones.astype(np.float32)[board_HW % 64] - 22 * (1 - seam_HW)[..., None]
    return planks_HWC + _resize(grain, width, height)[..., None]


def _cloth(width: int, height: int, rng: np.random.Generator) -> Canvas:
    angle, threads = rng.uniform(0, np.pi), rng.uniform(60, 110)
    warp_HW = np.sin(_positions(width, height, angle) * np.float32(threads))
    weft_HW = np.sin(_positions(width, height, angle + np.pi / 2) * np.float32(threads))
    folds_HWC = _resize(rng.normal(0, 13, (4, 4, 1)), width, height)[..., None]
    return (warp_HW * weft_HW)[..., None] * np.float32(rng.uniform(5, 12)) + folds_HWC


def _bokeh(width: int, height: int, rng: np.random.Generator) -> Canvas:
    """Draw soft bright spots, far out of focus."""
    small_HWC = np.zeros((height // 4, width // 4, 3), np.float32)
    for _ in range(int(rng.integers(6, 16))):
        centre = (int(rng.integers(width // 4)), int(rng.integers(height // 4)))
        tone = rng.normal(14, 22) + rng.normal(0, 7, 3)
        cv2.circle(small_HWC, centre, int(rng.integers(2, 8)), tone.tolist(), -1, cv2.LINE_8)
    return _resize(np.asarray(cv2.blur(small_HWC, (3, 3))), width, height)


_BACKGROUNDS: tuple[_Background, ...] = (_clouds, _rough, _planks, _cloth, _bokeh)


def _resize(cells: npt.NDArray[np.floating], width: int, height: int) -> npt.NDArray[np.float32]:
    """Interpolate to full size; cv2 drops a channel axis of one."""
    coarse = np.asarray(cells, np.float32)
    full = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(full, np.float32)


def _positions(width: int, height: int, angle: float) -> npt.NDArray[np.float32]:
    """Compute the position of each pixel along a direction, in units of the longer side."""
    longer = max(width, height)
    return np.add.outer(
        np.arange(height, dtype=np.float32) * np.float32(np.sin(angle) / longer),
        np.arange(width, dtype=np.float32) * np.float32(np.cos(angle) / longer),
    )
