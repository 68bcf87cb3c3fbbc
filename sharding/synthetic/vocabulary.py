"""The classes: shape x colour x texture, with MIDs, a long tail and kinship."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt

SHAPES = ("disc", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (214, 48, 42),
    "yellow": (240, 205, 40),
    "green": (58, 165, 70),
    "cyan": (60, 200, 215),
    "blue": (45, 80, 200),
    "magenta": (205, 60, 190),
}
TEXTURES = ("plain", "striped", "dotted")
MOST_CLASSES = len(SHAPES) * len(COLOURS) * len(TEXTURES)
# Rank r of the frequency order is drawn with weight (r + _FLATTEN) ** -_TAIL: the most frequent
# of 60 classes appears about twelve times as often as the rarest.
_TAIL, _FLATTEN = 1.0, 5.0
_DIGITS = "0123456789bcdfghjklmnpqrstvwxyz_"
# Verified in every dump, but in no trainable list: readers must drop and count them.
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
        """Display name, for example "striped red star"."""
        texture = "" if self.texture == "plain" else f"{self.texture} "
        return f"{texture}{self.colour} {self.shape}"

    def kinship(self, other: Kind) -> int:
        """How many of the three parts two classes share."""
        return sum(
            getattr(self, part) == getattr(other, part) for part in ("shape", "colour", "texture")
        )


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """K classes in the order of the trainable list, and how often each is drawn."""

    kinds: tuple[Kind, ...]
    weights_K: npt.NDArray[np.float64]

    @classmethod
    def make(cls, num_classes: int, seed: int) -> Vocabulary:
        """The first ``num_classes`` combinations (plain ones first), their frequencies shuffled."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0xC1A55]))
        combinations = [(s, c, t) for t, s, c in product(TEXTURES, SHAPES, COLOURS)]
        mids = _mids(num_classes, rng)
        kinds = [
            Kind(shape=shape, colour=colour, texture=texture, mid=mid)
            for (shape, colour, texture), mid in zip(combinations, mids, strict=False)
        ]
        # The real list is sorted with "_" ignored, as a locale's collation does.
        kinds.sort(key=lambda kind: kind.mid.replace("_", ""))
        weights = (np.arange(num_classes) + _FLATTEN) ** -_TAIL
        weights_K = rng.permutation(weights / weights.sum())
        return cls(kinds=tuple(kinds), weights_K=weights_K)

    @cached_property
    def kinship_KK(self) -> npt.NDArray[np.int64]:
        """`Kind.kinship` of every pair; 3 on the diagonal."""
        return np.array([[a.kinship(b) for b in self.kinds] for a in self.kinds])


def _mids(count: int, rng: np.random.Generator) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        length = int(rng.integers(4, 7))
        body = "".join(_DIGITS[int(i)] for i in rng.integers(0, len(_DIGITS), length))
        found.setdefault(f"/m/0{body}")
    return list(found)
