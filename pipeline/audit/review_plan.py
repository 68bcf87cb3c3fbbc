"""Plan a review of an evaluation's labels: which entries to verify next, so that mAP gets surer.

AP is a function of the distribution of a class's (score, label) pairs. Its derivative as an entry
gets more weight is the entry's influence, and the variance of AP over n entries is the mean squared
influence over n: the infinitesimal jackknife (Jaeckel 1972; Efron 1982, The Jackknife, 6.3).

With v_k the mean squared influence and n_k the labels of class k, a label more takes
``w_k^2 v_k / (n_k (n_k + 1))`` off the variance of the mean of groups, where w_k is the class's
weight in that mean. Giving each next label to the class where this is largest is the best
allocation in whole labels (Fox 1966, marginal analysis) and, without labels to begin with, Neyman's
(1934): n_k in proportion to w_k sqrt(v_k).

Within a class, entries are drawn to score as those that are verified already do: AP is of the
entries that people were asked about, and would become another quantity with other entries.

Shapes: E verified entries, C of one class, U distinct scores, K classes, M entries of the pool,
N planned labels.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharding.classes import NUM_GROUPS

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
_PRIOR = 10
"""Entries of its rarer state with which a class's own variance counts as much as its group's."""
_NOTHING = 1e-12
"""Largest variance of AP that rounding explains."""
HALF_INTERVAL = 1.959964
"""Half a 95 % interval in standard errors."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How sure the evaluation is: labels and variance of AP per label of every class.

    Attributes:
        groups_K: 1 to 5.
        labels_K: verified entries, int64; a class without any has no AP and is not planned for.
        variances_K: of AP per label, shrunk to the group's (`estimate`); 0 where no class varies.
    """

    groups_K: npt.NDArray[np.integer]
    labels_K: Counts
    variances_K: Floats

    @property
    def weights_K(self) -> Floats:
        """The weight of each class in the mean of groups; 0 for classes without AP."""
        counted_K = self.labels_K > 0
        sizes_G = np.bincount(self.groups_K[counted_K], minlength=NUM_GROUPS + 1)
        groups = np.count_nonzero(sizes_G)
        return np.where(counted_K, 1 / (np.maximum(sizes_G[self.groups_K], 1) * max(groups, 1)), 0)

    def standard_errors(self, more_K: Counts) -> Floats:
        """Expect the standard error of each class's AP with so many labels more, (K,)."""
        labels_K = self.labels_K + more_K
        return np.asarray(np.sqrt(self.variances_K / np.maximum(labels_K, 1)))

    def half_widths(self, more_K: Counts) -> dict[int, float]:
        """Expect half the 95 % interval of each group's mAP, a normal one; NaN for no class."""
        squared_K = self.standard_errors(more_K) ** 2
        widths = {}
        for group in range(1, NUM_GROUPS + 1):
            of = (self.groups_K == group) & (self.labels_K > 0)
            size = np.count_nonzero(of)
            widths[group] = (
                HALF_INTERVAL * math.sqrt(squared_K[of].sum()) / size if size else math.nan
            )
        return widths


def estimate(
    scores_E: npt.NDArray[np.floating],
    is_positive_E: npt.NDArray[np.bool_],
    classes_E: npt.NDArray[np.integer],
    groups_K: npt.NDArray[np.integer],
) -> Precision:
    """Estimate the variance per label of each class's AP from verified entries.

    A class's own estimate weighs r / (r + 10), r being the labels of its rarer state; the rest is
    that of its group, the mean over classes weighted by r (inferred: AP of few positives varies
    more than they show). A group that shows no variation takes that of all classes: where its
    classes are ranked perfectly, no label has an influence.
    """
    K = len(groups_K)
    own_K = variances(scores_E, is_positive_E, classes_E, K)
    own_K[own_K < _NOTHING] = 0
    labels_K = np.bincount(classes_E, minlength=K)
    positives_K = np.bincount(classes_E[is_positive_E], minlength=K)
    rarer_K = np.minimum(positives_K, labels_K - positives_K)
    shared_K = np.full(K, _weighted_mean(own_K, rarer_K))
    for group in np.unique(groups_K):
        of = groups_K == group
        if shared := _weighted_mean(own_K[of], rarer_K[of]):
            shared_K[of] = shared
    shrunk_K = (rarer_K * own_K + _PRIOR * shared_K) / (rarer_K + _PRIOR)
    return Precision(groups_K=groups_K, labels_K=labels_K, variances_K=shrunk_K)


def influences(scores_C: npt.NDArray[np.floating], is_positive_C: npt.NDArray[np.bool_]) -> Floats:
    """Compute each entry's influence on the AP of its class, (C,); zeros without a positive.

    With G(s) the share of entries that score at least s, p(s) the precision there and q the share
    of positives, the influence of an entry of score s and label y is
    ``(y (p(s) + H(s) - AP) - J(s)) / q``, where H and J sum 1 / G and p / G over the positives, as
    shares of all entries, that score at most s: the derivative of AP = E[y p] / q. Equal scores
    share one precision, as in the AP itself.
    """
    if not is_positive_C.any():
        return np.zeros(len(scores_C))
    _, place_C = np.unique(scores_C, return_inverse=True)
    all_U = np.bincount(place_C)
    right_U = np.bincount(place_C, is_positive_C)
    above_U = np.cumsum(all_U[::-1])[::-1]
    precision_U = np.cumsum(right_U[::-1])[::-1] / above_U
    positives = right_U.sum()
    ap = (right_U * precision_U).sum() / positives
    h_U = np.cumsum(right_U / above_U)
    j_U = np.cumsum(right_U * precision_U / above_U)
    gained_C = is_positive_C * (precision_U + h_U - ap)[place_C]
    return np.asarray((gained_C - j_U[place_C]) * len(scores_C) / positives)


def variances(
    scores_E: npt.NDArray[np.floating],
    is_positive_E: npt.NDArray[np.bool_],
    classes_E: npt.NDArray[np.integer],
    num_classes: int,
) -> Floats:
    """Estimate each class's variance of AP times its entries, (K,): its variance *per label*.

    0 where there is no positive, or nothing but positives: these show no variation.
    """
    order_E = np.argsort(classes_E, kind="stable")
    bounds_K1 = np.searchsorted(classes_E[order_E], np.arange(num_classes + 1))
    found_K = np.zeros(num_classes)
    for k, (begin, end) in enumerate(itertools.pairwise(bounds_K1)):
        of_class = order_E[begin:end]
        if len(of_class):
            found_K[k] = (influences(scores_E[of_class], is_positive_E[of_class]) ** 2).mean()
    return found_K


def _weighted_mean(values_K: Floats, weights_K: npt.NDArray[np.integer]) -> float:
    total = int(weights_K.sum())
    return float((values_K * weights_K).sum() / total) if total else 0.0


def allocate(precision: Precision, budget: int, available_K: Counts | None = None) -> Counts:
    """Choose the class of each next label, best first: class indices (N,), N at most ``budget``.

    Args:
        precision: of the evaluation.
        budget: labels to plan.
        available_K: most labels more of each class; without, there is no limit.
    """
    worth_K = precision.weights_K**2 * precision.variances_K
    left_K = np.full(len(worth_K), budget) if available_K is None else available_K.copy()
    sizes_K = precision.labels_K.copy()

    def gain(k: int) -> float:
        return float(worth_K[k] / (sizes_K[k] * (sizes_K[k] + 1)))

    heap = [(-gain(k), k) for k in np.flatnonzero((worth_K > 0) & (left_K > 0)).tolist()]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < budget:
        _, k = heap[0]
        chosen.append(k)
        sizes_K[k] += 1
        left_K[k] -= 1
        if left_K[k]:
            heapq.heapreplace(heap, (-gain(k), k))
        else:
            heapq.heappop(heap)
    return np.array(chosen, np.int64)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Entries that could be verified, of images of the split: equally long, in any order."""

    image_ids_M: npt.NDArray[np.uint64]
    classes_M: npt.NDArray[np.integer]
    scores_M: npt.NDArray[np.floating]

    def counts(self, num_classes: int) -> Counts:
        """Count the entries of each class, (K,)."""
        return np.bincount(self.classes_M, minlength=num_classes)


def draw(
    sequence_N: Counts,
    pool: Pool,
    scores_E: npt.NDArray[np.floating],
    classes_E: npt.NDArray[np.integer],
    seed: int = 0,
) -> Counts:
    """Draw an entry of the pool for each planned label; returns places in the pool, (N,).

    A target is drawn from the class's verified scores, all once before any comes again, and the
    unused entry of the pool that scores nearest to it is taken.

    Args:
        sequence_N: class of each label, as of `allocate`, of classes with enough entries.
        pool: to draw from.
        scores_E, classes_E: verified entries.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    order_M = np.lexsort([pool.image_ids_M, pool.scores_M, pool.classes_M])
    taken: dict[int, list[int]] = defaultdict(list)
    for k, wanted in zip(*np.unique(sequence_N, return_counts=True), strict=True):
        begin, end = np.searchsorted(pool.classes_M[order_M], [k, k + 1])
        places = order_M[begin:end].tolist()
        verified_C = np.sort(scores_E[classes_E == k])
        rounds = [rng.permutation(verified_C) for _ in range(-(-int(wanted) // len(verified_C)))]
        targets = np.concatenate(rounds)[:wanted]
        taken[int(k)] = _nearest(targets.tolist(), places, pool.scores_M[places].tolist())
    return np.array([taken[k].pop(0) for k in sequence_N.tolist()], np.int64)


def _nearest(targets: list[float], places: list[int], scores: list[float]) -> list[int]:
    """Take the place whose score is nearest to each target, none twice; scores ascend."""
    taken = []
    for target in targets:
        at = bisect.bisect_left(scores, target)
        if at == len(scores) or (at and target - scores[at - 1] <= scores[at] - target):
            at -= 1
        scores.pop(at)
        taken.append(places.pop(at))
    return taken
