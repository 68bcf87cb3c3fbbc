"""Is one run better than another? Differences of means with intervals and p-values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.bootstrap import MEANS, Interval, Judged, centred_interval, resample
from pipeline.metrics import average_precision, summarize
from sharding.classes import NUM_GROUPS
from sharding.errors import InputError


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
    rule: str = "boostlu",
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
    estimates, samples = [], []
    for judged in (first, second):
        ap_K = average_precision(
            judged.scores_E, judged.labels_E, judged.class_ids_E, num_classes, rule
        )
        means = summarize(ap_K, groups_K, nothing_K, nothing_K, rule).means()
        estimates.append(np.array(list(means.values())))
        samples.append(resample(judged, groups_K, rule=rule, replicates=replicates, seed=seed))
    return _differences(estimates[1] - estimates[0], samples[1] - samples[0], level)


def compare_classes(
    first_K: npt.NDArray[np.float64],
    second_K: npt.NDArray[np.float64],
    groups_K: npt.NDArray[np.integer],
    *,
    replicates: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Mapping[str, Difference]:
    """Paired bootstrap over classes, from two tables of AP per class (NaN: not counted).

    For runs of which only the per-class table is left. The answer is about other classes of the
    same kind; classes that only one run counts are left out.
    """
    if not len(first_K) == len(second_K) == len(groups_K):
        raise InputError(
            f"{len(first_K)} and {len(second_K)} classes in {len(groups_K)} groups",
            fix="compare runs on the same class list",
        )
    delta_K = second_K - first_K
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero((groups_K == g) & ~np.isnan(delta_K)) for g in range(1, 6)]
    columns = [members[g] for g in range(NUM_GROUPS)] + [np.flatnonzero(~np.isnan(delta_K))]
    estimate = np.array([_mean(delta_K[of]) for of in columns])
    sample_RM = np.stack([_resampled_means(delta_K[of], replicates, rng) for of in columns], axis=1)
    # Groups are drawn independently, so their mean's replicates are the means of theirs.
    held = [g for g in range(NUM_GROUPS) if len(members[g])]
    estimate = np.append(estimate, _mean(estimate[held]))
    of_groups = sample_RM[:, held].mean(axis=1) if held else np.full(replicates, np.nan)
    return _differences(estimate, np.column_stack([sample_RM, of_groups]), level)


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


def _resampled_means(
    values: npt.NDArray[np.float64], replicates: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    if not len(values):
        return np.full(replicates, np.nan)
    drawn = (rng.integers(0, len(values), len(values)) for _ in range(replicates))
    return np.array([values[indices].mean() for indices in drawn])


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


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
