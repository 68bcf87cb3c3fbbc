"""Outlines of the shapes, in a frame where every shape fits the unit circle; y points down."""

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
    """Closed contours (points, 2) of (x, y); an inner contour is a hole."""
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


def _polygon(corners: int, radius: float, turn: float = 0.0) -> Contour:
    """Corners on a circle, the first one at the top."""
    angles = np.arange(corners) * (2 * np.pi / corners) + turn
    points = np.stack([np.sin(angles), -np.cos(angles)], axis=1) * radius
    return points.astype(np.float32)
