"""Bootstrap over images: confidence intervals of every mean, and the difference of two runs.

An image is the unit that was sampled from the world: its entries (one per annotated class) are
drawn together. The entries are sorted once; a replicate only reweights them by how often their
image was drawn, so that two hundred replicates cost about as much as two hundred cumulative sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.commands import Rule
from pipeline.evaluation import ranking
from pipeline.evaluation.metrics import MEANS, Summary, average_precision, summarize
from pipeline.evaluation.scores import BOOST_ON, Scores
from sharding.errors import InputError
from sharding.labels import POSITIVE

_LEVEL = 0.95
_SAME = 1e-12
"""Largest spread of replicates that rounding explains."""
DIFFERENCE = "difference"
"""Name of the intervals of what the second of two summaries has more than the first."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % confidence interval, in the unit of its estimate (fractions for mAP).

    NaN where there is none: no replicate has the mean, or all have the same.
    """

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Second run minus first, in fractions, with the interval and the two-sided p-value.

    The interval leaves out 0 exactly where p is below 0.05, given 20 replicates or more.
    """

    delta: float
    interval: Interval
    p_value: float


def resample(
    scores: Scores,
    groups_K: npt.NDArray[np.integer],
    *,
    boosted: bool = True,
    rule: Rule = "boostlu",
    replicates: int = 200,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Recompute the M means of `metrics.MEANS` on images drawn with replacement.

    A class counts as in the full data. In a replicate that drew none of its positives it is left
    out (inferred: its AP is undefined there, and 0 would punish rare classes for the resampling).
    Equal seeds and images draw equally, in any order of entries, so two runs can be paired.

    Returns:
        (R, M) float64, one row per replicate; NaN for a group without a counted class.
    """
    num_classes = len(groups_K)
    logits_E = scores.logits(boosted=boosted)
    ap_K = average_precision(logits_E, scores.labels_E, scores.classes_E, num_classes, rule)
    images, image_E = np.unique(scores.image_ids_E, return_inverse=True)
    ranked = _Ranking.of(scores, logits_E, image_E)
    varies_K = np.isin(np.arange(num_classes), ranked.class_P) & ~np.isnan(ap_K)
    rng = np.random.default_rng(seed)
    none_K = np.zeros(num_classes, np.int64)
    means_RM = np.empty((replicates, len(MEANS)))
    for means_M in means_RM:
        drawn_N = np.bincount(rng.integers(0, len(images), len(images)), minlength=len(images))
        drawn_K, positives_K = ranked.weighted_ap(drawn_N, num_classes)
        summary = summarize(np.where(varies_K, drawn_K, ap_K), groups_K, positives_K, none_K, rule)
        means_M[:] = list(summary.means().values())
    return means_RM


def intervals(summary: Summary, means_RM: npt.NDArray[np.float64]) -> Mapping[str, Interval]:
    """Take percentile intervals of `resample`, shifted so that their median is the estimate.

    Drawing an image twice ties it with itself, which moves the replicates' AP as a whole; the
    shift removes that (inferred; coverage measured in docs/evaluation.md).
    """
    return {
        name: _centred_interval(value, means_R)
        for (name, value), means_R in zip(summary.means().items(), means_RM.T, strict=True)
    }


def all_intervals(
    summaries: Mapping[str, Summary],
    scores: Scores,
    groups_K: npt.NDArray[np.integer],
    rule: Rule,
    replicates: int,
) -> Mapping[str, Mapping[str, Interval]]:
    """Take intervals of every mean, by name of summary, and of the `DIFFERENCE` of two.

    The difference is paired: both are resampled on the same images. None without replicates.
    """
    if not replicates:
        return {}
    samples = {
        name: resample(scores, groups_K, boosted=name == BOOST_ON, rule=rule, replicates=replicates)
        for name in summaries
    }
    found = {name: intervals(summaries[name], samples[name]) for name in samples}
    if len(samples) == 2:
        (first, before_RM), (second, after_RM) = samples.items()
        before, after = summaries[first].means(), summaries[second].means()
        found[DIFFERENCE] = {
            name: _interval_of_difference(after[name] - before[name], sample_R)
            for name, sample_R in zip(before, (after_RM - before_RM).T, strict=True)
        }
    return found


def compare(
    first: Scores,
    second: Scores,
    groups_K: npt.NDArray[np.integer],
    *,
    rule: Rule = "boostlu",
    replicates: int = 500,
) -> Mapping[str, Difference]:
    """Compare two runs with BoostLU by a paired bootstrap: both on the same resampled images.

    The answer is about other images of the same kind, for these two trained models; it says
    nothing of other seeds of their training.

    Returns:
        Second minus first, by name of the mean as in `metrics.MEANS`.

    Raises:
        InputError: the runs were not scored on the same annotated entries.
    """
    _check_same_entries(first, second)
    before_M, after_M = (_means(scores, groups_K, rule) for scores in (first, second))
    before_RM, after_RM = (
        resample(scores, groups_K, rule=rule, replicates=replicates) for scores in (first, second)
    )
    deltas_M, samples_RM = after_M - before_M, after_RM - before_RM
    return {
        name: Difference(
            delta=delta,
            interval=_interval_of_difference(delta, sample_R),
            p_value=_p_value(delta, sample_R),
        )
        for name, delta, sample_R in zip(MEANS, deltas_M.tolist(), samples_RM.T, strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class _Ranking:
    """Entries by descending class and score, positives last among equal scores.

    Attributes:
        image_E: int64, place of each entry's image among all images.
        positive_E: whether it is positive; the following are of the P positives.
        class_P: int64.
        begin_P: int64, place of the first entry of the class.
        end_P: int64, place after the last entry of the same score.
    """

    image_E: npt.NDArray[np.int64]
    positive_E: npt.NDArray[np.bool_]
    class_P: npt.NDArray[np.int64]
    begin_P: npt.NDArray[np.int64]
    end_P: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls, scores: Scores, logits_E: npt.NDArray[np.float32], image_E: npt.NDArray[np.int64]
    ) -> _Ranking:
        """Sort the entries, equal ones by image: the order in which they come does not matter."""
        keys_E = ranking.make_keys(logits_E, scores.labels_E, scores.classes_E)
        order_E = np.lexsort((image_E, keys_E))[::-1]
        keys_E = keys_E[order_E]
        positive_E = (keys_E & 1).astype(bool)
        keys_P, classes_E = keys_E[positive_E], ranking.classes_of(keys_E)
        return cls(
            image_E=image_E[order_E],
            positive_E=positive_E,
            class_P=classes_E[positive_E],
            begin_P=np.searchsorted(-classes_E, -classes_E[positive_E]),
            end_P=np.searchsorted(-keys_E, -keys_P, side="right"),
        )

    def weighted_ap(
        self, drawn_N: npt.NDArray[np.int64], num_classes: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Compute (AP, positives) per class with every entry weighted by its image's draws.

        NaN for a class of which no positive was drawn.
        """
        weight_E = drawn_N[self.image_E]
        entries_E1 = np.append(0, np.cumsum(weight_E))
        hits_E1 = np.append(0, np.cumsum(weight_E * self.positive_E))
        hits_P = hits_E1[self.end_P] - hits_E1[self.begin_P]
        precision_P = hits_P / np.maximum(entries_E1[self.end_P] - entries_E1[self.begin_P], 1)
        weight_P = weight_E[self.positive_E]
        positives_K = np.bincount(self.class_P, weight_P, num_classes)
        sums_K = np.bincount(self.class_P, weight_P * precision_P, num_classes)
        with np.errstate(invalid="ignore"):
            return sums_K / positives_K, positives_K.astype(np.int64)


def _means(
    scores: Scores, groups_K: npt.NDArray[np.integer], rule: Rule
) -> npt.NDArray[np.float64]:
    """The means of `metrics.MEANS` with BoostLU, (M,)."""
    labels_E, classes_E, num_classes = scores.labels_E, scores.classes_E, len(groups_K)
    ap_K = average_precision(scores.boosted_E, labels_E, classes_E, num_classes, rule)
    positives_K = np.bincount(classes_E[labels_E == POSITIVE], minlength=num_classes)
    summary = summarize(ap_K, groups_K, positives_K, np.zeros(num_classes, np.int64), rule)
    return np.array(list(summary.means().values()))


def _centred_interval(estimate: float, replicates_R: npt.NDArray[np.float64]) -> Interval:
    """Percentiles of the replicates, moved by (estimate - median); NaN replicates left out."""
    known = _varying(replicates_R)
    if not len(known):
        return Interval(low=np.nan, high=np.nan)
    tail = (1 - _LEVEL) / 2
    low, middle, high = np.quantile(known, [tail, 0.5, 1 - tail])
    return Interval(low=float(estimate + low - middle), high=float(estimate + high - middle))


def _interval_of_difference(delta: float, replicates_R: npt.NDArray[np.float64]) -> Interval:
    """Delta, more or less as far as a replicate in twenty strays from their median.

    The differences that `_p_value` would not call significant. Percentiles held 0 for two equal
    runs in half of the small test sets, and contradicted p (docs/evaluation.md).
    """
    known = _varying(replicates_R)
    if not len(known):
        return Interval(low=np.nan, high=np.nan)
    strays_R = np.sort(np.abs(known - np.median(known)))[::-1]
    # p is below 0.05 where fewer than this many replicates stray so far.
    place = max(math.ceil((1 - _LEVEL) * (len(known) + 1) - _SAME) - 1, 1)
    stray = float(strays_R[place - 1])
    return Interval(low=delta - stray, high=delta + stray)


def _p_value(delta: float, replicates_R: npt.NDArray[np.float64]) -> float:
    """How often the replicates stray from their median as far as the difference is from zero.

    One is added to both counts: R replicates cannot show a p below 1 / (R + 1). NaN where the
    replicates do not vary, unless there is no difference.
    """
    if abs(delta) <= _SAME:
        return 1.0
    known = _varying(replicates_R)
    if not len(known) or np.isnan(delta):
        return float("nan")
    strayed = np.abs(known - np.median(known)) >= abs(delta)
    return float((strayed.sum() + 1) / (len(known) + 1))


def _varying(replicates_R: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Leave out NaN replicates; leave out all that do not vary, which say nothing of other images.

    As of a group whose only class is ranked perfectly: so it is in every draw.
    """
    known = replicates_R[~np.isnan(replicates_R)]
    return known if len(known) and np.ptp(known) > _SAME else known[:0]


def _check_same_entries(first: Scores, second: Scores) -> None:
    """Refuse runs whose sets of (image, class, label) entries differ."""
    if len(first.labels_E) == len(second.labels_E):
        ordered = []
        for scores in (first, second):
            columns = (scores.image_ids_E, scores.classes_E, scores.labels_E)
            order_E = np.lexsort(columns)
            ordered.append([column[order_E] for column in columns])
        if all(np.array_equal(a, b) for a, b in zip(*ordered, strict=True)):
            return
    raise InputError(
        f"the runs were scored on different entries ({len(first.labels_E):,} and "
        f"{len(second.labels_E):,})",
        fix="evaluate both on the same split and label version",
    )
