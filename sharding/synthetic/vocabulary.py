"""Make the classes: shape x colour x texture, with MIDs, in a long tail of frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt

from sharding.synthetic.shapes import SHAPES

# Hues that stay apart under every light of `camera.expose`; the last four are closer to others.
COLOURS = {
    "red": (214, 48, 42),
    "yellow": (240, 205, 40),
    "green": (58, 165, 70),
    "cyan": (60, 200, 215),
    "blue": (45, 80, 200),
    "magenta": (205, 60, 190),
    "orange": (235, 125, 30),
    "purple": (115, 45, 165),
    "brown": (120, 72, 38),
    "pink": (245, 150, 185),
}
TEXTURES = (
    *("plain", "striped", "dotted"),
    *("barred", "hatched", "checkered", "gridded", "banded", "spotted", "ringed"),
)
# The parts of the first classes; a collection of more gets further shapes, colours and textures.
_FIRST_SHAPES, _FIRST_COLOURS, _FIRST_TEXTURES = 5, 6, 3
MOST_CLASSES = len(SHAPES) * len(COLOURS) * len(TEXTURES)

# Rank r of the frequency order is drawn with weight 1 / (r + _FLATTEN): the most frequent of 60
# classes is about ten times as frequent as the rarest, which a small demo can still learn.
_FLATTEN = 5.0
_MID_CHARACTERS = "0123456789bcdfghjklmnpqrstvwxyz_"
# Verified in the dump, but in no trainable list: readers must drop and count them.
OUTSIDE = (
    ("/m/0zgrad", "Gradient background"),
    ("/m/0zgrain", "Background, grainy"),
    ("/m/0zcrowd", 'Scene called "crowded"'),
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One class."""

    shape: str
    colour: str
    texture: str
    mid: str

    @property
    def name(self) -> str:
        """Display name, for example "Striped red star"."""
        texture = "" if self.texture == "plain" else f"{self.texture} "
        return f"{texture}{self.colour} {self.shape}".capitalize()


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """K classes in the order of the trainable list, and the weights they are drawn with."""

    kinds: tuple[Kind, ...]
    weights_K: npt.NDArray[np.float64]

    @classmethod
    def make(cls, num_classes: int, seed: int) -> Vocabulary:
        """Take the first ``num_classes`` combinations, plain ones first; shuffle frequencies."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0xC1A55]))
        mids = _mids(num_classes, rng)
        kinds = [
            Kind(shape=shape, colour=colour, texture=texture, mid=mid)
            for (texture, shape, colour), mid in zip(_combinations(), mids, strict=False)
        ]
        weights = 1 / (np.arange(num_classes) + _FLATTEN)
        weights_K = rng.permutation(weights / weights.sum())
        return cls(
            kinds=tuple(sorted(kinds, key=lambda kind: collated(kind.mid))), weights_K=weights_K
        )

    @cached_property
    def shared_parts_KK(self) -> npt.NDArray[np.int64]:
        """Number of the three parts that two classes share; 3 on the diagonal."""
        parts_K3 = np.array([(kind.shape, kind.colour, kind.texture) for kind in self.kinds])
        return (parts_K3[:, None] == parts_K3[None, :]).sum(axis=2)


def _combinations() -> tuple[tuple[str, str, str], ...]:
    """List all of texture, shape and colour: those of the first parts, then the others."""
    first = product(
        TEXTURES[:_FIRST_TEXTURES], SHAPES[:_FIRST_SHAPES], tuple(COLOURS)[:_FIRST_COLOURS]
    )
    return tuple(dict.fromkeys([*first, *product(TEXTURES, SHAPES, COLOURS)]))


def collated(mid: str) -> str:
    """Make the key that the real class lists are sorted by: a locale's collation ignores "_"."""
    return mid.replace("_", "")


def _mids(count: int, rng: np.random.Generator) -> list[str]:
    mids: dict[str, None] = {}
    while len(mids) < count:
        length = int(rng.integers(4, 7))
        characters = rng.integers(0, len(_MID_CHARACTERS), length)
        mids.setdefault("/m/0" + "".join(_MID_CHARACTERS[i] for i in characters))
    return list(mids)
