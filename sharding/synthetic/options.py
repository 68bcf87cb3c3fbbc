"""Define the sizes and the seed of a demo dump."""

from __future__ import annotations

from dataclasses import dataclass

from sharding.errors import InputError
from sharding.log import count
from sharding.synthetic.vocabulary import MOST_CLASSES

SPLITS = ("train", "validation", "test")
_FEWEST_CLASSES = 5
_SMALLEST_SIDE, _LARGEST_SIDE = 48, 1024
_MOST_IMAGES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class DumpOptions:
    """Sizes and seed; the same options give the same bytes with any number of workers."""

    train: int = 3000
    """Training images, partially annotated."""
    validation: int = 400
    """Validation images."""
    test: int = 1000
    """Test images."""
    classes: int = 60
    """Classes, at most 1,000."""
    side: int = 160
    """Longer side of an image in pixels; the shorter one is 70 to 100 % of it."""
    seed: int = 0
    """Of everything drawn."""

    def __post_init__(self) -> None:
        if not _FEWEST_CLASSES <= self.classes <= MOST_CLASSES:
            raise InputError(
                f"{count(self.classes, 'class')}",
                fix=f"pass --classes between {_FEWEST_CLASSES} and {MOST_CLASSES}",
            )
        if min(self.images.values()) < 1:
            raise InputError("a split without images", fix="pass at least 1 image per split")
        if sum(self.images.values()) > _MOST_IMAGES:
            raise InputError("too many images", fix=f"pass at most {_MOST_IMAGES:,} in all")
        if not _SMALLEST_SIDE <= self.side <= _LARGEST_SIDE:
            raise InputError(
                f"side {self.side}", fix=f"pass --side between {_SMALLEST_SIDE} and {_LARGEST_SIDE}"
            )
        if self.seed < 0:
            raise InputError(f"seed {self.seed}", fix="pass --seed 0 or more")

    @property
    def images(self) -> dict[str, int]:
        """Images by split."""
        return {split: getattr(self, split) for split in SPLITS}
