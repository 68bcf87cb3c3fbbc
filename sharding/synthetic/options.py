"""How large a synthetic dump is and what it is drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from sharding.errors import InputError
from sharding.synthetic.vocabulary import MOST_CLASSES


@dataclass(frozen=True, kw_only=True)
class DumpOptions:
    """Sizes and seed; the same options give the same bytes, whatever the number of workers."""

    train: int = 3000
    """Training images, partially annotated."""
    validation: int = 400
    """Validation images."""
    test: int = 1000
    """Test images."""
    classes: int = 60
    """Classes, at most 90."""
    side: int = 160
    """Longer side of an image in pixels."""
    seed: int = 0
    """Of everything drawn."""

    def __post_init__(self) -> None:
        if not 5 <= self.classes <= MOST_CLASSES:
            raise InputError(
                f"{self.classes} classes", fix=f"pass --classes between 5 and {MOST_CLASSES}"
            )
        if min(self.train, self.validation, self.test) < 1:
            raise InputError("a split without images", fix="pass at least 1 image per split")
        if not 48 <= self.side <= 1024:
            raise InputError(f"side {self.side}", fix="pass --side between 48 and 1024")

    @property
    def images(self) -> dict[str, int]:
        """Images by split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
