"""Compute the outlines of the shapes, fitted into the unit circle; y points down."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Contour = npt.NDArray[np.float32]
SHAPES = (
    *("disc", "triangle", "star", "cross", "ring"),
    *("square", "heart", "arrow", "hourglass", "dome"),
)

_ROUND = 48
_ARM, _REACH = 0.32, 0.95
# Corners of the right half, from top to bottom; the left half is its mirror image.
_MIRRORED = {
    "heart": (
        *((0, -0.42), (0.12, -0.62), (0.32, -0.76), (0.55, -0.76), (0.75, -0.62), (0.84, -0.4)),
        *((0.82, -0.14), (0.66, 0.16), (0.38, 0.5), (0, 0.9)),
    ),
    "arrow": ((0, -0.98), (0.72, -0.1), (0.28, -0.1), (0.28, 0.94)),
    "hourglass": ((0.7, -0.7), (0.14, 0), (0.7, 0.7)),
}


@cache
def outline(shape: str) -> tuple[Contour, ...]:
    """Compute closed contours (points, 2) of (x, y); an inner contour is a hole."""
    match shape:
        case "disc":
            return (_polygon(_ROUND, 0.9),)
        case "ring":
            return (_polygon(_ROUND, 0.95), _polygon(_ROUND, 0.48))
        case "triangle":
            return (_polygon(3, 1.0),)
        case "star":
            points, notches = _polygon(5, 1.0), _polygon(5, 0.42, turn=np.pi / 5)
            return (np.stack([points, notches], axis=1).reshape(-1, 2),)
        case "cross":
            a, b = _ARM, _REACH
            half = np.array([(a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b)], np.float32)
            return (np.concatenate([half, -half]),)
        case "square":
            return (_polygon(4, 0.95, turn=np.pi / 4),)
        case "dome":
            half_round = _polygon(_ROUND, 0.9, turn=-np.pi / 2)[: _ROUND // 2 + 1]
            return (half_round + np.array([0, 0.4], np.float32),)
        case _ if shape in _MIRRORED:
            right = np.array(_MIRRORED[shape], np.float32)
            return (np.concatenate([right, right[::-1] * np.array([-1, 1], np.float32)]),)
    raise ValueError(f"no shape {shape!r}")


def clip(contour: Contour, width: float, height: float) -> Contour:
    """Clip a closed contour to the rectangle from (0, 0) to (width, height)."""
    for axis, size in enumerate((width, height)):
        contour = _clip(contour, contour[:, axis])
        contour = _clip(contour, size - contour[:, axis])
    return contour


def _clip(contour: Contour, distances: npt.NDArray[np.float32]) -> Contour:
    """Cut off the part of a closed contour with negative distance (Sutherland-Hodgman)."""
    following, following_distances = np.roll(contour, -1, axis=0), np.roll(distances, -1)
    crosses = (distances < 0) != (following_distances < 0)
    share = np.divide(
        distances, distances - following_distances, out=np.zeros_like(distances), where=crosses
    )
    cuts = contour + share[:, None] * (following - contour)
    points = np.stack([contour, cuts], axis=1).reshape(-1, 2)
    return points[np.stack([distances >= 0, crosses], axis=1).ravel()]


def _polygon(corners: int, radius: float, turn: float = 0.0) -> Contour:
    """Place corners on a circle, the first one at the top."""
    angles = np.arange(corners) * (2 * np.pi / corners) + turn
    points = np.stack([np.sin(angles), -np.cos(angles)], axis=1) * radius
    return points.astype(np.float32)
