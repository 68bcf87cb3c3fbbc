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
_Distances = npt.NDArray[np.floating]

# cv2 takes contour points in 1/16 pixel: edges are smooth also on small objects.
_SUBPIXEL_BITS = 4
# Of a texture, over the radius of an object.
_PERIODS = 1.9
_DARK, _PALE = 0.22, 235.0
_PALE_TEXTURES = frozenset({"dotted", "banded"})


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
    u_HW = (cos * columns_1W + sin * rows_H1) / np.float32(item.squeeze)
    v_HW = cos * rows_H1 - sin * columns_1W
    if kind.texture == "plain":
        return np.broadcast_to(colour, (*u_HW.shape, 3)).copy()
    distance_HW = _distance(kind.texture, u_HW, v_HW, phase)
    is_pale = kind.texture in _PALE_TEXTURES
    other = np.full(3, _PALE, np.float32) if is_pale else colour * np.float32(_DARK)
    # Half a pixel of transition, so that fine textures do not turn into noise.
    share_HW1 = np.clip(distance_HW * item.radius / _PERIODS + 0.5, 0, 1)[..., None]
    return colour + share_HW1 * (other - colour)


def _distance(
    texture: str, u_HW: _Distances, v_HW: _Distances, phase: npt.NDArray[np.float32]
) -> _Distances:
    """Compute how far each pixel is inside the pattern, in periods; negative outside.

    Args:
        texture: any but plain.
        u_HW, v_HW: the pixel's place across and along the object, in radii.
        phase: shift of the pattern across and along, in periods.
    """
    across_HW = np.mod(u_HW * _PERIODS + phase[0], 1) - 0.5
    down_HW = np.mod(v_HW * _PERIODS + phase[1], 1) - 0.5
    match texture:
        case "striped":
            return np.abs(across_HW) - 0.28
        case "barred":
            return np.abs(down_HW) - 0.28
        case "banded":
            return np.abs(across_HW) - 0.28
        case "hatched":
            slanted_HW = (u_HW + v_HW) * np.float32(_PERIODS * 0.7) + phase[0]
            return np.abs(np.mod(slanted_HW, 1) - 0.5) - 0.28
        case "checkered":
            return 4 * (np.abs(across_HW) - 0.25) * (np.abs(down_HW) - 0.25)
        case "gridded":
            return np.maximum(np.abs(across_HW), np.abs(down_HW)) - 0.36
        case "dotted" | "spotted":
            return 0.29 - np.hypot(across_HW, down_HW)
        case "ringed":
            return np.abs(np.mod(np.hypot(u_HW, v_HW) * _PERIODS + phase[0], 1) - 0.5) - 0.28
    raise ValueError(f"no texture {texture!r}")
