"""Rank the entries of all classes by one sort of integer keys: the core of average precision.

An entry becomes one signed 64-bit key, ``class * 2**33 + 2 * score - label``, where ``score`` is
the float's rank-preserving integer. Sorting the keys groups the classes, orders the scores within
each, and puts the positives first among equal scores; the lowest bit still tells them apart. The
sorted keys do not depend on the order of the entries: any number of ranks, in any order, gives the
same average precision to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Precision at every positive of K classes, in ascending order of class and score.

    Attributes:
        precisions_P: float64, TP / (TP + FP) of all entries that score at least as high.
        bounds_K1: int64; class k's positives are ``precisions_P[bounds_K1[k]:bounds_K1[k + 1]]``.
        negatives_K: int64 entries.
    """

    precisions_P: npt.NDArray[np.float64]
    bounds_K1: npt.NDArray[np.int64]
    negatives_K: npt.NDArray[np.int64]

    @property
    def positives_K(self) -> npt.NDArray[np.int64]:
        """int64 entries."""
        return np.diff(self.bounds_K1)

    def precision_sums(self) -> npt.NDArray[np.float64]:
        """Sum the precision over each class's positives, (K,) float64; 0 without any."""
        sums_K = np.zeros(len(self.negatives_K))
        some_K = np.flatnonzero(self.positives_K)
        if len(some_K):
            sums_K[some_K] = np.add.reduceat(self.precisions_P, self.bounds_K1[some_K])
        return sums_K

    def at_recall(self, levels_L: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Precision at the score that first reaches each recall level in (0, 1], (K, L).

        The step curve whose area is the AP; NaN for a class without positive.
        """
        curves_KL = np.full((len(self.negatives_K), len(levels_L)), np.nan)
        some_K = np.flatnonzero(self.positives_K)
        # The n-th best positive of a class is n places before its end.
        nth_KL = np.ceil(levels_L * self.positives_K[some_K, None] - 1e-9).clip(1).astype(np.int64)
        curves_KL[some_K] = self.precisions_P[self.bounds_K1[1:][some_K, None] - nth_KL]
        return curves_KL


def make_keys(
    scores_E: npt.NDArray[np.floating],
    labels_E: npt.NDArray[np.int8],
    class_ids_E: npt.NDArray[np.integer],
) -> npt.NDArray[np.int64]:
    """Pack each entry into a key; input must be free of NaN and of labels besides 1 and 0."""
    keys_E = class_ids_E.astype(np.int64)
    keys_E <<= 32
    keys_E += _ordered_integers(scores_E)
    keys_E += keys_E
    keys_E -= labels_E
    return keys_E


def classes_of(keys_E: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Unpack the class of each key, which is within 2**32 of the class's multiple of 2**33."""
    return (keys_E + (1 << 32)) >> 33


def rank(keys_E: npt.NDArray[np.int64], num_classes: int) -> Ranked:
    """Compute the precision at every positive from ascending keys."""
    starts_K1 = np.searchsorted(keys_E, (np.arange(num_classes + 1) << 33) - (1 << 32))
    places_P = np.flatnonzero(keys_E & 1)
    bounds_K1 = np.searchsorted(places_P, starts_K1)
    positives_K = np.diff(bounds_K1)
    # In ascending order an entry's rank is its distance from the end of its class.
    true_P = np.repeat(bounds_K1[1:], positives_K) - np.arange(len(places_P))
    ranks_P = np.repeat(starts_K1[1:], positives_K) - places_P
    return Ranked(
        precisions_P=_share_ties(true_P / ranks_P, keys_E[places_P]),
        bounds_K1=bounds_K1,
        negatives_K=np.diff(starts_K1) - positives_K,
    )


def _share_ties(
    precisions_P: npt.NDArray[np.float64], keys_P: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Give equal scores the precision after all of them, as scikit-learn does.

    Positives come first among equal scores, so in ascending order the first of a run of equal
    keys has the whole tie, negatives included, above it.
    """
    first_P = np.append(True, keys_P[1:] != keys_P[:-1])[: len(keys_P)]
    return precisions_P[first_P][np.cumsum(first_P) - 1]


def _ordered_integers(scores_E: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    """Integers that compare as the floats do, ties kept."""
    if scores_E.dtype != np.float32:  # dense ranks: what of wider floats fits the key
        return np.unique(scores_E, return_inverse=True)[1].astype(np.int32)
    # Adding zero makes -0.0 equal to 0.0 in its bits, too.
    bits_E = (scores_E + np.float32(0)).view(np.int32)
    return bits_E ^ ((bits_E >> 31) & np.int32(0x7FFFFFFF))
