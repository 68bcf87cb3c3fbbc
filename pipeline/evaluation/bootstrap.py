"""How far chance could move a mean: images resampled with replacement, every mean recomputed.

An image is the unit that was sampled from the world: its entries (one per annotated class) are
drawn together. The entries are sorted once; a replicate only reweights them by how often their
image was drawn, so that two hundred replicates cost about as much as two hundred cumulative sums.

Is one run better than another? Differences of means with intervals and p-values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.commands import Rule
from pipeline.evaluation import ranking
from pipeline.evaluation.metrics import Summary, average_precision, summarize
from pipeline.evaluation.scores import Judged
from sharding.classes import NUM_GROUPS
from sharding.errors import InputError
from sharding.labels import POSITIVE

WEIGHTED = "weighted"

MEANS = (*(f"group_{g}" for g in range(1, NUM_GROUPS + 1)), "all", "mean_of_groups", WEIGHTED)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval, in the unit of what it is about (fractions for mAP)."""

    low: float
    high: float


def means_of(summary: Summary) -> dict[str, float]:
    """What intervals are given for, in the order of `MEANS`."""
    return {**summary.means(), WEIGHTED: summary.map_weighted}


def resample(
    judged: Judged,
    groups_K: npt.NDArray[np.integer],
    *,
    rule: Rule = "boostlu",
    replicates: int = 200,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """The M means of `MEANS` in each of R replicates, (R, M); NaN for a group without class.

    A class counts as in the full data. In a replicate that drew none of its positives it is left
    out (inferred: its AP is undefined there, and 0 would punish rare classes for the resampling).
    Equal seeds and images draw equally, in any order of entries, so two runs can be paired.
    """
    num_classes = len(groups_K)
    ap_K = average_precision(
        judged.scores_E, judged.labels_E, judged.class_ids_E, num_classes, rule
    )
    keys_E, order_E = _sorted(judged)
    images, image_E = np.unique(judged.image_ids_E, return_inverse=True)
    curves = _Curves.of(keys_E, image_E[order_E], num_classes)
    rng = np.random.default_rng(seed)
    nothing_K = np.zeros(num_classes, np.int64)
    means_RM = np.empty((replicates, len(MEANS)))
    for means_M in means_RM:
        drawn_N = np.bincount(rng.integers(0, len(images), len(images)), minlength=len(images))
        drawn_K, positives_K = curves.drawn(drawn_N)
        replicate_K = np.where(curves.has_positive_K & ~np.isnan(ap_K), drawn_K, ap_K)
        summary = summarize(replicate_K, groups_K, positives_K, nothing_K, rule)
        means_M[:] = list(means_of(summary).values())
    return means_RM


def intervals(
    summary: Summary, means_RM: npt.NDArray[np.float64], level: float = 0.95
) -> Mapping[str, Interval]:
    """Percentile intervals of `resample`, shifted so that the replicates' median is the estimate.

    Drawing an image twice ties it with itself, which moves the replicates' AP as a whole; the
    shift removes that (inferred; coverage measured in docs/evaluation.md).
    """
    return {
        name: centred_interval(value, means_R, level)
        for (name, value), means_R in zip(means_of(summary).items(), means_RM.T, strict=True)
    }


def centred_interval(
    estimate: float, replicates_R: npt.NDArray[np.float64], level: float
) -> Interval:
    """Percentiles of the replicates, moved by (estimate - median); NaN replicates left out."""
    known = replicates_R[~np.isnan(replicates_R)]
    if not len(known):
        return Interval(low=np.nan, high=np.nan)
    tail = (1 - level) / 2
    low, middle, high = np.quantile(known, [tail, 0.5, 1 - tail])
    return Interval(low=float(estimate + low - middle), high=float(estimate + high - middle))


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """Entries by descending class and score, and where the steps of their curves end.

    Reversed keys run down each class, positives last among equal scores. ``ends_S`` is the last
    positive of every run of equal scores that has one: S steps. The P classes that have a positive
    (``classes_P``) start at entry ``start_P`` and at step ``first_step_P``.
    """

    image_E: npt.NDArray[np.int64]
    positive_E: npt.NDArray[np.bool_]
    ends_S: npt.NDArray[np.int64]
    first_step_P: npt.NDArray[np.int64]
    start_P: npt.NDArray[np.int64]
    classes_P: npt.NDArray[np.int64]
    has_positive_K: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls, keys_E: npt.NDArray[np.int64], image_E: npt.NDArray[np.int64], num_classes: int
    ) -> _Curves:
        keys_E, image_E = keys_E[::-1], image_E[::-1]
        positive_E = (keys_E & 1).astype(bool)
        places = np.flatnonzero(positive_E)
        is_end = np.append(keys_E[places][1:] != keys_E[places][:-1], True)[: len(places)]
        ends_S = places[is_end]
        class_S = (keys_E[ends_S] + (1 << 32)) >> 33
        first_step_P = np.flatnonzero(np.diff(class_S, prepend=-1))
        classes_P = class_S[first_step_P]
        sizes_K = np.bincount((keys_E + (1 << 32)) >> 33, minlength=num_classes)
        # Classes descend: a class starts after all entries of higher classes.
        start_K = len(keys_E) - np.cumsum(sizes_K)
        has_positive_K = np.zeros(num_classes, bool)
        has_positive_K[classes_P] = True
        return cls(
            image_E=image_E,
            positive_E=positive_E,
            ends_S=ends_S,
            first_step_P=first_step_P,
            start_P=start_K[classes_P],
            classes_P=classes_P,
            has_positive_K=has_positive_K,
        )

    def drawn(
        self, drawn_N: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """(AP, positives) per class with every entry weighted by its image; NaN without any."""
        ap_K = np.full(len(self.has_positive_K), np.nan)
        positives_K = np.zeros(len(ap_K), np.int64)
        if not len(self.ends_S):
            return ap_K, positives_K
        weight_E = drawn_N[self.image_E]
        entries_E1 = np.concatenate([[0], np.cumsum(weight_E)])
        hits_S = np.cumsum(weight_E * self.positive_E)[self.ends_S]
        gained_S = np.diff(hits_S, prepend=0)
        steps_P = np.diff(np.append(self.first_step_P, len(self.ends_S)))
        before_P = hits_S[self.first_step_P] - gained_S[self.first_step_P]
        tp_S = hits_S - np.repeat(before_P, steps_P)
        seen_S = entries_E1[self.ends_S + 1] - np.repeat(entries_E1[self.start_P], steps_P)
        step_S = gained_S * (tp_S / np.maximum(seen_S, 1))
        total_P = np.add.reduceat(gained_S, self.first_step_P)
        with np.errstate(invalid="ignore"):
            ap_K[self.classes_P] = np.add.reduceat(step_S, self.first_step_P) / total_P
        positives_K[self.classes_P] = total_P
        return ap_K, positives_K


def _sorted(judged: Judged) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(keys ascending, the entry behind each)."""
    keys_E = ranking.keys(judged.scores_E, judged.labels_E, judged.class_ids_E)
    order_E = np.argsort(keys_E)
    return keys_E[order_E], order_E


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Second run minus first, in fractions, with the interval and the two-sided p-value."""

    delta: float
    interval: Interval
    p_value: float


def compare(
    first: Judged,
    second: Judged,
    groups_K: npt.NDArray[np.integer],
    *,
    rule: Rule = "boostlu",
    replicates: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> Mapping[str, Difference]:
    """Paired bootstrap over images: both runs are judged on the same resampled images.

    The answer is about other images of the same kind, for these two trained models; it says
    nothing of other seeds of their training.

    Raises:
        InputError: the runs were not judged on the same annotated entries.
    """
    _check_same_entries(first, second)
    num_classes = len(groups_K)
    nothing_K = np.zeros(num_classes, np.int64)
    positives_K = np.bincount(first.class_ids_E[first.labels_E == POSITIVE], minlength=num_classes)
    estimates, samples = [], []
    for judged in (first, second):
        ap_K = average_precision(
            judged.scores_E, judged.labels_E, judged.class_ids_E, num_classes, rule
        )
        means = means_of(summarize(ap_K, groups_K, positives_K, nothing_K, rule))
        estimates.append(np.array(list(means.values())))
        samples.append(resample(judged, groups_K, rule=rule, replicates=replicates, seed=seed))
    return _differences(estimates[1] - estimates[0], samples[1] - samples[0], level)


def _differences(
    estimate_M: npt.NDArray[np.float64], sample_RM: npt.NDArray[np.float64], level: float
) -> dict[str, Difference]:
    return {
        name: Difference(
            delta=float(estimate_M[i]),
            interval=centred_interval(float(estimate_M[i]), sample_RM[:, i], level),
            p_value=_p_value(float(estimate_M[i]), sample_RM[:, i]),
        )
        for i, name in enumerate(MEANS)
    }


def _p_value(estimate: float, sample_R: npt.NDArray[np.float64]) -> float:
    """How often the replicates stray from their median as far as the estimate is from zero.

    One is added to both counts: R replicates cannot show a p below 1 / (R + 1).
    """
    known = sample_R[~np.isnan(sample_R)]
    if not len(known) or np.isnan(estimate):
        return float("nan")
    strayed = np.abs(known - np.median(known)) >= abs(estimate)
    return float((strayed.sum() + 1) / (len(known) + 1))


def _check_same_entries(first: Judged, second: Judged) -> None:
    """Refuse runs whose (image, class, label) entries differ, in whatever order they come."""
    columns = ("image_ids_E", "class_ids_E", "labels_E")
    if len(first.labels_E) == len(second.labels_E):
        ordered = []
        for judged in (first, second):
            order_E = np.lexsort([getattr(judged, name) for name in columns])
            ordered.append([getattr(judged, name)[order_E] for name in columns])
        if all(np.array_equal(a, b) for a, b in zip(*ordered, strict=True)):
            return
    raise InputError(
        f"the runs were judged on different entries ({len(first.labels_E):,} and "
        f"{len(second.labels_E):,})",
        fix="evaluate both on the same split and label version",
    )
