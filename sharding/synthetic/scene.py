"""Compose a scene: a few objects of distinct classes, the later ones in front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharding.synthetic.shapes import Contour, clip, outline
from sharding.synthetic.vocabulary import Vocabulary

_FEWEST, _MOST = 2, 6
# How often a further object shares two parts with the one before: this makes negatives hard, and
# the classes of an image depend on each other, as those of photographs do.
_SHARE_SIMILAR = 0.35
_SMALLEST, _LARGEST = 0.14, 0.24
# Two objects may overlap by this share of the smaller one's diameter.
_OVERLAP = 0.35
_TRIES = 40


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One object: class, centre and radius in pixels, and how it is turned towards the camera.

    Attributes:
        angle: rotation in the image plane, radians.
        squeeze: foreshortening, width over height before the rotation, at most 1.
    """

    class_index: int
    shape: str
    x: float
    y: float
    radius: float
    angle: float
    squeeze: float

    def contours(self) -> tuple[Contour, ...]:
        """Compute the outline in pixels, points (x, y)."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turn = np.array([[cos * self.squeeze, -sin], [sin * self.squeeze, cos]]) * self.radius
        centre = (self.x, self.y)
        return tuple((c @ turn.T + centre).astype(np.float32) for c in outline(self.shape))

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Compute (XMin, XMax, YMin, YMax) of its part in the image, as fractions of the sides."""
        # The centre of pixel 0 is half a pixel inside the image. Holes do not widen an outline.
        visible = clip(self.contours()[0] + np.float32(0.5), width, height)
        (left, top), (right, bottom) = visible.min(0).tolist(), visible.max(0).tolist()
        return left / width, right / width, top / height, bottom / height


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image's size in pixels and its objects, back to front."""

    width: int
    height: int
    objects: tuple[Placed, ...]


def compose(vocabulary: Vocabulary, side: int, rng: np.random.Generator) -> Scene:
    """Decide the size of an image (longer side ``side``) and the objects in it."""
    short = int(side * rng.uniform(0.7, 1.0))
    width, height = (side, short) if rng.random() < 0.7 else (short, side)
    placed: list[Placed] = []
    most = min(_MOST, len(vocabulary.kinds) - 1)  # something must be absent
    for _ in range(int(rng.integers(_FEWEST, most + 1))):
        spot = _spot(width, height, placed, rng)
        if spot is not None:
            x, y, radius = spot
            chosen = _choose(vocabulary, [other.class_index for other in placed], rng)
            placed.append(
                Placed(
                    class_index=chosen,
                    shape=vocabulary.kinds[chosen].shape,
                    x=x,
                    y=y,
                    radius=radius,
                    angle=float(rng.uniform(-0.5, 0.5)),
                    squeeze=float(rng.uniform(0.8, 1.0)),
                )
            )
    return Scene(width=width, height=height, objects=tuple(placed))


def _choose(vocabulary: Vocabulary, chosen: list[int], rng: np.random.Generator) -> int:
    """Draw a class that is not in the scene yet."""
    weights_K = vocabulary.weights_K.copy()
    weights_K[chosen] = 0
    if chosen and rng.random() < _SHARE_SIMILAR:
        similar_K = weights_K * (vocabulary.shared_parts_KK[chosen[-1]] == 2)
        weights_K = similar_K if similar_K.any() else weights_K
    return int(rng.choice(len(weights_K), p=weights_K / weights_K.sum()))


def _spot(
    width: int, height: int, placed: list[Placed], rng: np.random.Generator
) -> tuple[float, float, float] | None:
    """Draw (x, y, radius) such that every object stays visible; None where the image is full."""
    short = min(width, height)
    for _ in range(_TRIES):
        radius = float(rng.uniform(_SMALLEST, _LARGEST)) * short
        x = float(rng.uniform(0.75 * radius, width - 0.75 * radius))
        y = float(rng.uniform(0.75 * radius, height - 0.75 * radius))
        if all(
            radius + other.radius - np.hypot(x - other.x, y - other.y)
            < _OVERLAP * 2 * min(radius, other.radius)
            for other in placed
        ):
            return x, y, radius
    return None
