"""Is one run better than another? Differences of means with intervals and p-values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.bootstrap import MEANS, Interval, Judged, centred_interval, means_of, resample
from pipeline.metrics import average_precision, summarize
from sharding.errors import InputError
from sharding.labels import POSITIVE


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
