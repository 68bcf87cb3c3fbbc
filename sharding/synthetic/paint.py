"""Paint one object onto a canvas: shadow, outline, colour, texture, light."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from sharding.synthetic.scene import Placed
from sharding.synthetic.shapes import Contour
from sharding.synthetic.vocabulary import COLOURS, Kind

Canvas = npt.NDArray[np.float32]
_Plane = npt.NDArray[np.float32]

# cv2 takes contour points in 1/16 pixel: edges are smooth also on small objects.
_SUBPIXEL_BITS = 4
_STRIPES, _DOTS = 1.9, 1.9
_DARK, _PALE = 0.22, 235.0


def paint(
    canvas_HWC: Canvas, kind: Kind, item: Placed, light: float, rng: np.random.Generator
) -> None:
    """Draw an object into the canvas, in place; ``light`` is its direction in radians."""
    patch_HWC, contours, left, top = _patch(canvas_HWC, item)
    inside_HW = _coverage(contours, patch_HWC.shape[:2])
    toward = np.array([np.cos(light), np.sin(light)], np.float32)
    patch_HWC *= 1 - 0.35 * _shadow(contours, item, toward, patch_HWC.shape[:2])[..., None]
    rows_H1 = (
        np.arange(patch_HWC.shape[0], dtype=np.float32)[:, None] + top - item.y
    ) / item.radius
    columns_1W = (
        np.arange(patch_HWC.shape[1], dtype=np.float32)[None, :] + left - item.x
    ) / item.radius
    surface_HWC = _surface(kind, item, rows_H1, columns_1W, rng)
    surface_HWC *= (1 + 0.2 * (toward[0] * columns_1W + toward[1] * rows_H1))[..., None]
    patch_HWC += inside_HW[..., None] * (surface_HWC - patch_HWC)


def _patch(canvas_HWC: Canvas, item: Placed) -> tuple[Canvas, list[Contour], int, int]:
    """Cut out what an object and its shadow touch: (patch, contours in it, left, top)."""
    contours = item.contours()
    points = np.concatenate(contours)
    margin = 2 + item.radius * 0.35
    left, top = np.maximum(0, points.min(0) - margin).astype(int).tolist()
    right, bottom = (points.max(0) + margin).astype(int).tolist()
    moved = [contour - np.array([left, top], np.float32) for contour in contours]
    return canvas_HWC[top : bottom + 1, left : right + 1], moved, left, top


def _coverage(contours: list[Contour], size: tuple[int, ...]) -> _Plane:
    """Compute the share of each pixel inside the outline."""
    mask_HW = np.zeros(size, np.uint8)
    fixed = [np.round(contour * 2**_SUBPIXEL_BITS).astype(np.int32) for contour in contours]
    cv2.fillPoly(mask_HW, fixed, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask_HW.astype(np.float32) / np.float32(255)


def _shadow(
    contours: list[Contour], item: Placed, toward: npt.NDArray[np.float32], size: tuple[int, ...]
) -> _Plane:
    shift = -0.16 * item.radius * toward
    soft = max(3, int(item.radius * 0.3) | 1)
    return np.asarray(
        cv2.blur(_coverage([c + shift for c in contours], size), (soft, soft)), np.float32
    )


def _surface(
    kind: Kind, item: Placed, rows_H1: _Plane, columns_1W: _Plane, rng: np.random.Generator
) -> Canvas:
    """Compute the colour of the object at each pixel of its patch, before light."""
    colour = np.array(COLOURS[kind.colour], np.float32) + rng.normal(0, 9, 3).astype(np.float32)
    phase = rng.random(2, np.float32)
    cos, sin = np.float32(np.cos(item.angle)), np.float32(np.sin(item.angle))
    u = (cos * columns_1W + sin * rows_H1) / np.float32(item.squeeze)
    v = cos * rows_H1 - sin * columns_1W
    if kind.texture == "striped":
        distance = np.abs(np.mod(u * _STRIPES + phase[0], 1) - 0.5) - 0.28
        other = colour * np.float32(_DARK)
    elif kind.texture == "dotted":
        across, down = np.mod(u * _DOTS + phase[0], 1) - 0.5, np.mod(v * _DOTS + phase[1], 1) - 0.5
        distance = 0.29 - np.hypot(across, down)
        other = np.full(3, _PALE, np.float32)
    else:
        return np.broadcast_to(colour, (*u.shape, 3)).copy()
    # Half a pixel of transition, so that fine textures do not turn into noise.
    share = np.clip(distance * item.radius / _STRIPES + 0.5, 0, 1)[..., None]
    return colour + share * (other - colour)
