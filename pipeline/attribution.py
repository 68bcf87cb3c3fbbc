"""How attribution scores are distributed: the paper's comparison of partial and full labels.

A model trained on partial labels has maps of much the same shape as one trained on full labels,
but their positive end is lower (paper section 3); that is what BoostLU mends. Scores are counted
in fixed bins, so that runs are compared without running any of them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharding.errors import InputError

# Zero is an edge: what lies above it is counted exactly. The outermost bins hold all beyond.
WIDTH, LIMIT = 0.25, 60.0
# Sums of its multiples are exact, and so the same in any order, up to 2**33.
_GRAIN = 2.0**-20
EDGES = np.linspace(-LIMIT, LIMIT, round(2 * LIMIT / WIDTH) + 1)


@dataclass(frozen=True, kw_only=True)
class Attributions:
    """Scores of all positions of some class activation maps, before the boost.

    Attributes:
        counts_H: int64, scores per bin of `EDGES`.
        positive_sum: sum of the scores above zero, each rounded to `_GRAIN`.
    """

    counts_H: npt.NDArray[np.int64]
    positive_sum: float

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating]) -> Attributions:
        """Count scores of any shape.

        Raises:
            InputError: a score is not finite.
        """
        flat = np.asarray(scores, np.float64).ravel()
        if not np.isfinite(flat).all():
            raise InputError("an attribution score is not finite", fix="use another checkpoint")
        # Counted from zero: adding the limit first would round what is just below zero up to it.
        bins = np.floor(flat / WIDTH).astype(np.int64) + (len(EDGES) - 1) // 2
        bins = np.clip(bins, 0, len(EDGES) - 2)
        counts_H = np.bincount(bins, minlength=len(EDGES) - 1)
        grains = np.rint(flat[flat > 0] / _GRAIN)
        return cls(counts_H=counts_H, positive_sum=float(grains.sum() * _GRAIN))

    def __add__(self, other: Attributions) -> Attributions:
        return Attributions(
            counts_H=self.counts_H + other.counts_H,
            positive_sum=self.positive_sum + other.positive_sum,
        )

    @property
    def above_zero(self) -> float:
        """Share of the scores that are evidence for their class; NaN of none."""
        total = self.counts_H.sum()
        return float(self.counts_H[EDGES[:-1] >= 0].sum() / total) if total else float("nan")

    @property
    def mean_above_zero(self) -> float:
        """Mean of the scores above zero; NaN of none."""
        count = self.counts_H[EDGES[:-1] >= 0].sum()
        return float(self.positive_sum / count) if count else float("nan")

    @property
    def density_H(self) -> npt.NDArray[np.float64]:
        """Density over `EDGES`, with area 1."""
        return self.counts_H / (max(1, self.counts_H.sum()) * WIDTH)

    def as_json(self) -> dict[str, Any]:
        """Plain values; the inverse of `from_json`."""
        return {
            "edges": [float(edge) for edge in EDGES],
            "counts": self.counts_H.tolist(),
            "positive_sum": self.positive_sum,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], file: str) -> Attributions:
        """Rebuild what an evaluation stored.

        Raises:
            InputError: it is damaged, or counted in other bins.
        """
        try:
            same = np.array_equal(raw["edges"], EDGES)
            counts_H = np.array(raw["counts"], np.int64)
            if not same or counts_H.shape != (len(EDGES) - 1,):
                raise ValueError("other bins")
            return cls(counts_H=counts_H, positive_sum=float(raw["positive_sum"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"no attribution scores of ours ({error})", file=file, fix="evaluate that run again"
            ) from None


NONE = Attributions(counts_H=np.zeros(len(EDGES) - 1, np.int64), positive_sum=0.0)
