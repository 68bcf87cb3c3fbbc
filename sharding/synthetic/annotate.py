"""From complete truth to what a partially annotated collection would know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharding.labels import NEGATIVE, POSITIVE
from sharding.synthetic.vocabulary import OUTSIDE, Vocabulary

# Open Images V3, train: 2.7 positives and 3.0 negatives per image. Validation and test have
# 13.3 annotations per image there, 66% positive; with at most six objects in an image the
# positives are all that is present, and negatives fill up to the same number.
_TRAIN_SEEN = 0.66
_TRAIN_NEGATIVES = 2.85
_HELD_OUT = 13
_HARD = 0.8
_OUTSIDE = 0.06
_CROWD = 0.05


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of `annotations-human.csv`, without the image id."""

    source: str
    mid: str
    confidence: int


def annotate(
    present: Sequence[int], vocabulary: Vocabulary, *, train: bool, rng: np.random.Generator
) -> list[Row]:
    """The verified rows of an image; what is present but not among them is unobserved."""
    seen = [k for k in present if not train or rng.random() < _TRAIN_SEEN]
    count = rng.poisson(_TRAIN_NEGATIVES) if train else _HELD_OUT - len(seen)
    absent = _negatives(present, vocabulary, int(count), rng)
    rows = [_row(vocabulary.kinds[k].mid, POSITIVE, rng) for k in seen]
    rows += [_row(vocabulary.kinds[k].mid, NEGATIVE, rng) for k in absent]
    if rows and rng.random() < _OUTSIDE * len(rows):
        mid, _ = OUTSIDE[int(rng.integers(len(OUTSIDE)))]
        rows.append(_row(mid, int(rng.integers(2)), rng))
    return [rows[i] for i in rng.permutation(len(rows))]


def _negatives(
    present: Sequence[int], vocabulary: Vocabulary, count: int, rng: np.random.Generator
) -> list[int]:
    """Absent classes, mostly those a model would propose: kin of what is there."""
    K = len(vocabulary.kinds)
    absent_K = np.ones(K, bool)
    absent_K[list(present)] = False
    kin_K = (vocabulary.kinship_KK[list(present)] == 2).any(0) & absent_K
    weights_K = vocabulary.weights_K * absent_K
    hard_K = weights_K * kin_K
    if hard_K.any():
        weights_K = _HARD * hard_K / hard_K.sum() + (1 - _HARD) * weights_K / weights_K.sum()
    count = min(count, int(absent_K.sum()))
    drawn = rng.choice(K, count, replace=False, p=weights_K / weights_K.sum())
    return [int(k) for k in drawn]


def _row(mid: str, confidence: int, rng: np.random.Generator) -> Row:
    crowd = rng.random() < _CROWD
    source = "crowdsource-verification" if crowd else "verification"
    return Row(source=source, mid=mid, confidence=confidence)
