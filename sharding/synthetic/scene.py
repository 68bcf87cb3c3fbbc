"""Drawing: a background, a few objects of known classes on it, a camera's imperfections."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sharding.synthetic.vocabulary import COLOURS, Kind, Vocabulary

_FEWEST, _MOST = 2, 6
# How often a further object is kin of one already there: what makes negatives hard and lets the
# classes of an image depend on each other, as those of photographs do.
_KIN = 0.35
_MOST_COVERED = 0.35
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One object: class index, centre and radius in pixels, angle in radians."""

    class_index: int
    x: float
    y: float
    radius: float
    angle: float

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(XMin, XMax, YMin, YMax) as fractions of the image."""
        return (
            max(0.0, (self.x - self.radius) / width),
            min(1.0, (self.x + self.radius) / width),
            max(0.0, (self.y - self.radius) / height),
            min(1.0, (self.y + self.radius) / height),
        )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is in an image, back to front."""

    width: int
    height: int
    objects: tuple[Placed, ...]


def compose(vocabulary: Vocabulary, side: int, rng: np.random.Generator) -> Scene:
    """Decide size and objects of an image; classes are distinct within it."""
    short = int(side * rng.uniform(0.7, 1.0))
    width, height = (side, short) if rng.random() < 0.7 else (short, side)
    chosen: list[int] = []
    placed: list[Placed] = []
    for _ in range(int(rng.integers(_FEWEST, _MOST + 1))):
        kind = _draw(vocabulary, chosen, rng)
        spot = _spot(width, height, placed, rng)
        if spot is not None:
            chosen.append(kind)
            angle = float(rng.uniform(-0.5, 0.5))
            placed.append(Placed(class_index=kind, angle=angle, **spot))
    return Scene(width=width, height=height, objects=tuple(placed))


def render(scene: Scene, vocabulary: Vocabulary, rng: np.random.Generator) -> Image:
    """Draw a scene: uint8 RGB (H, W, 3)."""
    canvas_HWC = _background(scene.width, scene.height, rng)
    for item in scene.objects:
        _paint(canvas_HWC, vocabulary.kinds[item.class_index], item, rng)
    light = rng.uniform(0.8, 1.15)
    sigma = rng.uniform(0.0, 0.8)
    if sigma > 0.3:
        cv2.GaussianBlur(canvas_HWC, (0, 0), sigma, dst=canvas_HWC)
    noise_HWC = rng.normal(0, rng.uniform(1, 6), canvas_HWC.shape)
    return np.clip(canvas_HWC * light + noise_HWC, 0, 255).astype(np.uint8)


def _draw(vocabulary: Vocabulary, chosen: list[int], rng: np.random.Generator) -> int:
    weights_K = vocabulary.weights_K.copy()
    if chosen and rng.random() < _KIN:
        weights_K *= vocabulary.kinship_KK[chosen[-1]] == 2
    weights_K[chosen] = 0
    if not weights_K.any():
        weights_K = vocabulary.weights_K.copy()
        weights_K[chosen] = 0
    return int(rng.choice(len(weights_K), p=weights_K / weights_K.sum()))


def _spot(
    width: int, height: int, placed: list[Placed], rng: np.random.Generator
) -> dict[str, float] | None:
    """A place that leaves every object mostly visible, or None where a few tries find none."""
    for _ in range(12):
        radius = float(rng.uniform(0.14, 0.24)) * min(width, height)
        x = float(rng.uniform(0.7 * radius, width - 0.7 * radius))
        y = float(rng.uniform(0.7 * radius, height - 0.7 * radius))
        overlaps = (
            (radius + other.radius - np.hypot(x - other.x, y - other.y))
            / (2 * min(radius, other.radius))
            for other in placed
        )
        if all(overlap < _MOST_COVERED for overlap in overlaps):
            return {"x": x, "y": y, "radius": radius}
    return None


def _background(width: int, height: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Muted colours, so that no background looks like an object: gradient plus soft noise."""
    cells = int(rng.integers(2, 7))
    coarse = rng.normal(0, 14, (cells, cells, 3)).astype(np.float32)
    field_HWC = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    base = rng.uniform(70, 190) + rng.normal(0, 10, 3)
    slope = rng.normal(0, 30, 2)
    rows_H1 = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    columns_1W = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    gradient_HW = slope[0] * rows_H1 + slope[1] * columns_1W
    return field_HWC + gradient_HW[..., None].astype(np.float32) + base.astype(np.float32)


def _paint(
    canvas_HWC: npt.NDArray[np.float32], kind: Kind, item: Placed, rng: np.random.Generator
) -> None:
    reach = int(np.ceil(item.radius)) + 2
    left, top = max(0, int(item.x) - reach), max(0, int(item.y) - reach)
    patch_HWC = canvas_HWC[top : int(item.y) + reach + 1, left : int(item.x) + reach + 1]
    height, width = patch_HWC.shape[:2]
    rows_H1 = (np.arange(height)[:, None] + top - item.y) / item.radius
    columns_1W = (np.arange(width)[None, :] + left - item.x) / item.radius
    u = np.cos(item.angle) * columns_1W + np.sin(item.angle) * rows_H1
    v = -np.sin(item.angle) * columns_1W + np.cos(item.angle) * rows_H1
    inside_HW = np.clip(_distance(kind.shape, u, v) * item.radius + 0.5, 0, 1)[..., None]
    colour = np.array(COLOURS[kind.colour]) + rng.normal(0, 10, 3)
    shade_HW = 1 + 0.18 * (-u - v)  # lit from the upper left
    tone_HW = np.where(_texture(kind.texture, u, v), 1.0, 0.25) * shade_HW
    patch_HWC += inside_HW * (tone_HW[..., None] * colour - patch_HWC)


def _distance(
    shape: str, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Signed distance to the outline in radii, positive inside (approximate near corners)."""
    r = np.hypot(u, v)
    if shape == "disc":
        return 0.9 - r
    if shape == "ring":
        return 0.24 - np.abs(r - 0.7)
    if shape == "cross":
        arm = 0.3
        across = np.minimum(arm - np.abs(u), 0.95 - np.abs(v))
        along = np.minimum(arm - np.abs(v), 0.95 - np.abs(u))
        return np.maximum(across, along)
    if shape == "triangle":
        edges = [
            0.5 - (np.cos(a) * u + np.sin(a) * v) for a in np.pi / 2 + np.arange(3) * 2 * np.pi / 3
        ]
        return np.minimum(np.minimum(edges[0], edges[1]), edges[2])
    # A five-pointed star: the outline's radius swings between the points and the notches.
    turn = np.abs(np.mod(np.arctan2(u, -v) / (2 * np.pi) * 5 + 0.5, 1) - 0.5) * 2
    return (1 - turn) * 1.0 + turn * 0.42 - r


def _texture(
    texture: str, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Where the object has its full colour; elsewhere it is dark."""
    if texture == "striped":
        return np.mod(u * 2.2 + 0.25, 1) < 0.55
    if texture == "dotted":
        return np.hypot(np.mod(u * 2.2, 1) - 0.5, np.mod(v * 2.2, 1) - 0.5) > 0.27
    return np.ones(np.broadcast_shapes(u.shape, v.shape), np.bool_)
