"""Compute the outlines of the shapes, fitted into the unit circle; y points down."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Contour = npt.NDArray[np.float32]
SHAPES = ("disc", "triangle", "star", "cross", "ring")

_ROUND = 48
_ARM, _REACH = 0.32, 0.95


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
