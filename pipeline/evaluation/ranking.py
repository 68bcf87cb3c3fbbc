"""The numeric core of average precision: all classes ranked by one sort of integer keys.

An entry becomes one signed 64-bit key, ``class * 2**33 + 2 * score - label``, where ``score`` is
the float's rank-preserving integer. Sorting the keys groups the classes, orders the scores within
each, and puts the positives first among equal scores; the lowest bit still tells them apart. No
permutation is carried along, and the sorted keys do not depend on the order of the entries: any
number of ranks, in any order, gives the same number to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Entries handled at a time: few enough that every temporary, of a block rounded up to whole
# classes too, stays in cache and below 128 KiB, from where glibc maps fresh pages for each of them
# and the page faults cost more than the sort.
_BLOCK = 12_000
_SIGNIFICANT = np.int32(0x7FFFFFFF)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Precision of the positives, summed per class, and how many entries stand behind it.

    Attributes:
        precision_sums_K: float64, sum over the class's positives of the precision at their score.
        positives_K, negatives_K: int64 entries.
    """

    precision_sums_K: npt.NDArray[np.float64]
    positives_K: npt.NDArray[np.int64]
    negatives_K: npt.NDArray[np.int64]


def keys(
    scores_E: npt.NDArray[np.floating],
    labels_E: npt.NDArray[np.int8],
    class_ids_E: npt.NDArray[np.integer],
) -> npt.NDArray[np.int64]:
    """One key per entry; input must be free of NaN and of labels besides 1 and 0."""
    comparable_E = scores_E if scores_E.dtype == np.float32 else _dense_ranks(scores_E)
    keys_E = np.empty(len(comparable_E), np.int64)
    wide_B, ordered_B = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int32)
    for begin in range(0, len(keys_E), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        chunk = keys_E[part]
        wide, ordered = wide_B[: len(chunk)], ordered_B[: len(chunk)]
        np.left_shift(class_ids_E[part], 32, out=chunk, dtype=np.int64, casting="unsafe")
        # Copies before arithmetic: numpy adds equal types several times faster than mixed ones.
        wide[:] = _ordered_integers(comparable_E[part], ordered)
        chunk += wide
        chunk += chunk
        wide[:] = labels_E[part]
        chunk -= wide
    return keys_E


def sorted_keys(
    scores_E: npt.NDArray[np.floating],
    labels_E: npt.NDArray[np.int8],
    class_ids_E: npt.NDArray[np.integer],
) -> npt.NDArray[np.int64]:
    """The keys of all entries, ascending."""
    keys_E = keys(scores_E, labels_E, class_ids_E)
    keys_E.sort()
    return keys_E


def rank(keys_E: npt.NDArray[np.int64], num_classes: int) -> Ranked:
    """Sum the positives' precision per class from `sorted_keys`."""
    sums_K = np.zeros(num_classes)
    positives_K = np.zeros(num_classes, np.int64)
    entries_K = np.zeros(num_classes, np.int64)
    edges_K1 = _edges(np.arange(num_classes + 1))
    # Blocks of whole classes and about equal numbers of entries.
    marks = (keys_E[_BLOCK::_BLOCK] + (1 << 32)) >> 33
    firsts = np.unique(np.concatenate([[0], marks, [num_classes]]))
    ends = keys_E.searchsorted(edges_K1[firsts])
    counting = np.arange(np.diff(ends).max(initial=0), dtype=np.float64)
    for first, last, begin, end in zip(firsts, firsts[1:], ends, ends[1:], strict=False):
        block = keys_E[begin:end]
        starts = block.searchsorted(edges_K1[first : last + 1])
        precision, bounds = _precision(block, starts, counting)
        entries_K[first:last] = starts[1:] - starts[:-1]
        counts = bounds[1:] - bounds[:-1]
        positives_K[first:last] = counts
        held = counts.nonzero()[0]
        if len(held):
            sums_K[first + held] = np.add.reduceat(precision, bounds[held])
    return Ranked(
        precision_sums_K=sums_K, positives_K=positives_K, negatives_K=entries_K - positives_K
    )


def _edges(classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Keys below all of a class: a key lies within 2**32 of its class's multiple of 2**33."""
    return (classes << 33) - (1 << 32)


def precision_at_recall(
    keys_E: npt.NDArray[np.int64], num_classes: int, levels_L: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Precision at the score that first reaches each recall level in (0, 1], (K, L).

    The step curve whose area is the AP; NaN for a class without positive.
    """
    starts = np.searchsorted(keys_E, _edges(np.arange(num_classes + 1)))
    counting = np.arange(len(keys_E), dtype=np.float64)
    precision, bounds = _precision(keys_E, starts, counting)
    counts_K = np.diff(bounds)
    curves_KL = np.full((num_classes, len(levels_L)), np.nan)
    held = np.flatnonzero(counts_K)
    # The n-th best positive of a class is n places before its end.
    nth_KL = np.ceil(levels_L * counts_K[held, None] - 1e-9).clip(1).astype(np.int64)
    curves_KL[held] = precision[bounds[1:][held, None] - nth_KL]
    return curves_KL


def _precision(
    keys: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    counting: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Precision at every positive of whole classes, ascending; class k owns ``bounds[k:k + 2]``.

    Class k's keys are ``keys[starts[k]:starts[k + 1]]``; ``counting`` is 0, 1, 2, ..., made once.
    """
    places = (keys.astype(np.uint8) & 1).view(bool).nonzero()[0]
    bounds = places.searchsorted(starts)
    counts = bounds[1:] - bounds[:-1]
    # Ascending order: an entry's rank is its distance from the end of its class.
    precision = bounds[1:].astype(np.float64).repeat(counts)
    precision -= counting[: len(places)]
    ranks = starts[1:].astype(np.float64).repeat(counts)
    ranks -= places
    precision /= ranks
    _share_ties(precision, keys, places)
    return precision, bounds


def _share_ties(
    precision: npt.NDArray[np.float64], keys: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
) -> None:
    """Give equal scores the precision after all of them, as scikit-learn does (in place).

    Positives come first among equal scores, so in ascending order the first of a run of equal
    keys has the whole tie, negatives included, above it.
    """
    twins = keys[1:] == keys[:-1]
    if not twins.any():
        return
    # Before a positive's twin is a positive, so the first positive of all has none.
    tied = twins.take(places[1:] - 1).nonzero()[0] + 1
    if len(tied):
        runs = np.flatnonzero(np.diff(tied, prepend=-1) != 1)
        lengths = np.diff(runs, append=len(tied))
        precision[tied] = np.repeat(precision[tied[runs] - 1], lengths)


def _ordered_integers(
    scores: npt.NDArray[Any], out: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Integers that compare as the floats do, in ``out``; ranks pass through."""
    if scores.dtype == np.int32:
        return scores
    # Adding zero makes -0.0 equal to 0.0 in its bits, too.
    bits = (scores + np.float32(0)).view(np.int32)
    np.right_shift(bits, 31, out=out)
    out &= _SIGNIFICANT
    out ^= bits
    return out


def _dense_ranks(scores_E: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    """Dense ranks, int32: what of wider floats fits the key, with every tie kept."""
    return np.unique(scores_E, return_inverse=True)[1].astype(np.int32)
