"""Compute average precision over annotated entries, and its means over the five class groups.

Scores exist only where a human annotated, as flat arrays of (class, score, label). What to do
with a class that has no annotated entry, or no positive, or no negative, is a *rule*; the papers'
codes differ there, so every result names its rule (docs/evaluation.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.commands import Rule
from pipeline.config.sections import refuse_unknown
from pipeline.evaluation import ranking
from sharding.classes import NUM_GROUPS
from sharding.errors import InputError
from sharding.labels import POSITIVE, UNOBSERVED

RULES: Mapping[Rule, str] = {
    "boostlu": "classes without annotated entry skipped, without positive count as 0",
    "imcl": "classes without annotated entry or without positive count as 0",
    "csl": "classes without positive or without negative skipped",
}
WEIGHTED = "weighted"
MEANS = (*(f"group_{g}" for g in range(1, NUM_GROUPS + 1)), "all", "mean_of_groups", WEIGHTED)
"""Names of the means of a `Summary`."""


def average_precision(
    scores: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_ids: npt.NDArray[np.integer],
    num_classes: int,
    rule: Rule = "boostlu",
) -> npt.NDArray[np.float64]:
    """Compute the average precision of every class over its annotated entries.

    AP is the sum over distinct scores of (recall gained) x (precision there), equal to
    scikit-learn's `average_precision_score`, ties included. The result does not depend on the
    order of the entries, to the last bit.

    Args:
        scores: (E,) logits, float32 or float64; higher means more likely present.
        labels: (E,) POSITIVE or NEGATIVE; UNOBSERVED entries are dropped.
        class_ids: (E,) integers in [0, num_classes).
        num_classes: K.
        rule: which classes count, one of `RULES`. Source: the authors' evaluation code
            (boostlu), IMCL's `measurement.compute_AP` (imcl), `AP_partial` of CSL (csl; its
            order-dependent treatment of ties is not followed).

    Returns:
        (K,) float64 in [0, 1]; NaN where the rule skips the class.

    Raises:
        InputError: NaN scores, other labels, class ids out of range, lengths that differ, an
            unknown rule.
    """
    refuse_unknown("rule", rule, Rule)
    entries = _observed(np.asarray(scores), np.asarray(labels), np.asarray(class_ids), num_classes)
    ranked = ranking.rank(np.sort(ranking.make_keys(*entries)), num_classes)
    ap_K = np.zeros(num_classes)
    has_positive_K, has_negative_K = ranked.positives_K > 0, ranked.negatives_K > 0
    np.divide(ranked.precision_sums(), ranked.positives_K, out=ap_K, where=has_positive_K)
    if rule == "boostlu":
        ap_K[~(has_positive_K | has_negative_K)] = np.nan
    elif rule == "csl":
        ap_K[~(has_positive_K & has_negative_K)] = np.nan
    return ap_K


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means of AP over the classes that the rule counts; fractions in [0, 1], NaN for no class.

    Attributes:
        rule: the rule that the APs were computed with.
        map_all: mean over all counted classes (macro).
        map_groups: group 1..5 -> mean over its counted classes.
        map_of_groups: mean of the groups that have a counted class.
        map_weighted: mean over counted classes weighted by their positives in this split.
        counted, counted_all: classes counted, per group and in all.
        classes: K, those counted and those not.
        without_positive: counted classes that have none in this split; their AP is 0.
        positives, negatives: annotated entries per group, skipped classes included.
    """

    rule: Rule
    map_all: float
    map_groups: Mapping[int, float]
    map_of_groups: float
    map_weighted: float
    counted: Mapping[int, int]
    counted_all: int
    classes: int
    without_positive: int
    positives: Mapping[int, int]
    negatives: Mapping[int, int]

    def means(self) -> dict[str, float]:
        """List the means in the order of `MEANS`."""
        values = (*self.map_groups.values(), self.map_all, self.map_of_groups, self.map_weighted)
        return dict(zip(MEANS, values, strict=True))

    def as_metrics(self, prefix: str) -> dict[str, float]:
        """List flat metrics such as ``val/mAP/group_1`` for MLflow; means may be NaN."""
        metrics = {f"{prefix}/mAP/{name}": value for name, value in self.means().items()}
        counted = f"{prefix}/classes_evaluated"
        metrics |= {f"{counted}/group_{g}": float(value) for g, value in self.counted.items()}
        metrics[f"{counted}/all"] = float(self.counted_all)
        return metrics


def summarize(
    ap_K: npt.NDArray[np.float64],
    groups_K: npt.NDArray[np.integer],
    positives_K: npt.NDArray[np.integer],
    negatives_K: npt.NDArray[np.integer],
    rule: Rule = "boostlu",
) -> Summary:
    """Average `average_precision`'s result over groups 1..5 and over all classes.

    Args:
        ap_K: AP per class, NaN for a class that is not counted.
        groups_K: group of each class, 1 (fewest annotations) to 5.
        positives_K, negatives_K: annotated entries of each class in the evaluated split.
        rule: the rule `ap_K` was computed with, kept for the record.

    Raises:
        InputError: lengths that differ, a group outside 1..5, an unknown rule.
    """
    refuse_unknown("rule", rule, Rule)
    lengths = {len(ap_K), len(groups_K), len(positives_K), len(negatives_K)}
    if len(lengths) > 1 or not np.isin(groups_K, range(1, NUM_GROUPS + 1)).all():
        raise InputError(
            f"AP, groups and supports do not describe the same classes in groups 1..{NUM_GROUPS}",
            fix="take all of them from the dataset that was evaluated",
        )
    counted_K = ~np.isnan(ap_K)
    members = {group: groups_K == group for group in range(1, NUM_GROUPS + 1)}
    map_groups = {group: _mean(ap_K[of & counted_K]) for group, of in members.items()}
    return Summary(
        rule=rule,
        map_all=_mean(ap_K[counted_K]),
        map_groups=map_groups,
        map_of_groups=_mean(np.array([m for m in map_groups.values() if not math.isnan(m)])),
        map_weighted=_mean(ap_K[counted_K], positives_K[counted_K]),
        counted={group: int((of & counted_K).sum()) for group, of in members.items()},
        counted_all=int(counted_K.sum()),
        classes=len(ap_K),
        without_positive=int((counted_K & (positives_K == 0)).sum()),
        positives={group: int(positives_K[of].sum()) for group, of in members.items()},
        negatives={group: int(negatives_K[of].sum()) for group, of in members.items()},
    )


def _mean(values: npt.NDArray[np.float64], weights: npt.NDArray[np.integer] | None = None) -> float:
    if weights is None:
        return float(values.mean()) if len(values) else math.nan
    total = weights.sum()
    return float((values * weights).sum() / total) if total else math.nan


def _observed(
    scores: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_ids: npt.NDArray[np.integer],
    num_classes: int,
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.int8], npt.NDArray[np.integer]]:
    """The entries that have a label, checked; scores float32 or float64."""
    if not scores.shape == labels.shape == class_ids.shape or scores.ndim != 1:
        raise InputError(
            f"shapes differ: scores {scores.shape}, labels {labels.shape}, "
            f"class ids {class_ids.shape}",
            fix="pass three flat arrays with one element per annotated entry",
        )
    _check_range(
        labels, "labels", UNOBSERVED, POSITIVE, fix="encode positive 1, negative 0, unobserved -1"
    )
    class_list = "score with the class list of the dataset"
    _check_range(class_ids, "class ids", 0, num_classes - 1, fix=class_list)
    kept = labels != UNOBSERVED
    if not kept.all():
        scores, labels, class_ids = scores[kept], labels[kept], class_ids[kept]
    if scores.dtype != np.float64:
        scores = scores.astype(np.float32, copy=False)
    if missing := int(np.isnan(scores).sum()):
        raise InputError(
            f"{missing} of {len(scores)} scores are NaN",
            fix="look at the run's loss; take an earlier checkpoint if it diverged",
        )
    return scores, labels.astype(np.int8, copy=False), class_ids


def _check_range(
    values: npt.NDArray[np.integer], name: str, low: int, high: int, *, fix: str
) -> None:
    if values.dtype.kind not in "iub":
        raise InputError(f"{name} are {values.dtype}, not integers", fix=f"pass {name} as integers")
    if not len(values):
        return
    first, last = values.min(), values.max()
    if first < low or last > high:
        raise InputError(f"{name} range from {first} to {last}, not {low} to {high}", fix=fix)
