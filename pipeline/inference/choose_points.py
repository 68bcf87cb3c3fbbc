"""Choose operating points from verified entries: thresholds per class, temperatures per group.

A class's own best threshold is shrunk to its group's where few verified entries support it. Whether
it holds is said by exact (Clopper-Pearson) intervals of precision and recall.

Shapes: E verified entries, K classes, C entries of one class or group.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from pipeline.models.operating_points import OperatingPoints
from sharding.classes import ClassTable
from sharding.labels import POSITIVE
from sharding.log import count

Floats = npt.NDArray[np.float64]
_PRIOR = 10
"""Entries of its rarer state with which a class counts as much as its group."""
_CONFIDENCE = 0.95
_BISECTIONS = 60
_COLDEST, _HOTTEST = 0.05, 20.0
_SPREAD = 0.5
"""Standard deviation of the log of a group's temperature around that of all entries."""


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Verified entries: logits_E, is_positive_E and classes_E, equally long."""

    logits_E: Floats
    is_positive_E: npt.NDArray[np.bool_]
    classes_E: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        logits_E: npt.NDArray[np.floating],
        labels_E: npt.NDArray[np.integer],
        classes_E: npt.NDArray[np.integer],
    ) -> Entries:
        """Sort by class, so that those of a class are a slice."""
        order_E = np.argsort(classes_E, kind="stable")
        return cls(
            logits_E=logits_E[order_E].astype(np.float64),
            is_positive_E=labels_E[order_E] == POSITIVE,
            classes_E=classes_E[order_E].astype(np.int64),
        )

    def counts(self, num_classes: int, chosen_E: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Count chosen entries per class."""
        return np.bincount(self.classes_E[chosen_E], minlength=num_classes)


def choose(
    entries: Entries, classes: ClassTable, *, precision: float | None, source: str
) -> OperatingPoints:
    """Choose the operating points of a class list, with the support and quality of each class.

    Args:
        entries: of validation images.
        classes: with their groups.
        precision: as of `thresholds`.
        source: what the entries are, for people.
    """
    K = len(classes)
    shrunk_K, own_K, weights_K = thresholds(entries, classes.groups_K, precision)
    taken_E = entries.logits_E >= shrunk_K[entries.classes_E]
    positives_K = entries.counts(K, entries.is_positive_E)
    right_K = entries.counts(K, taken_E & entries.is_positive_E)
    columns: dict[str, list[Any]] = {
        "mid": list(classes.mids),
        "group": classes.groups_K.tolist(),
        "positives": positives_K.tolist(),
        "negatives": entries.counts(K, ~entries.is_positive_E).tolist(),
        "own_threshold": [None if math.isnan(own) else own for own in own_K.tolist()],
        "weight_of_own": weights_K.tolist(),
        **_shares("precision", right_K, entries.counts(K, taken_E)),
        **_shares("recall", right_K, positives_K),
    }
    return OperatingPoints(
        criterion="maximal F1" if precision is None else f"precision {precision:g}",
        source=source,
        classes_sha256=classes.sha256,
        thresholds=shrunk_K.tolist(),
        temperatures=temperatures(entries, classes.groups_K).tolist(),
        columns=columns,
    )


def _shares(
    name: str, hits_K: npt.NDArray[np.int64], trials_K: npt.NDArray[np.int64]
) -> dict[str, list[Any]]:
    """List shares with their intervals; None without trials."""
    low_K, high_K = clopper_pearson(hits_K, trials_K)
    both = zip(hits_K.tolist(), trials_K.tolist(), strict=True)
    return {
        name: [hits / trials if trials else None for hits, trials in both],
        f"{name}_low": low_K.tolist(),
        f"{name}_high": high_K.tolist(),
    }


def thresholds(
    entries: Entries, groups_K: npt.NDArray[np.integer], precision: float | None = None
) -> tuple[Floats, Floats, Floats]:
    """Choose the thresholds: (shrunk_K, own_K, weights_K), logits; own is NaN without positives.

    A class whose entries reach the precision at no threshold gets one above all of its logits
    (its group's, where that is higher): nothing of them is called present. A group that reaches it
    nowhere has the threshold of all entries, and where these do not either, 0.

    Args:
        entries: of validation images.
        groups_K: of every class.
        precision: the least one, at the largest recall; by default F1 is maximal.
    """
    K = len(groups_K)
    everything = _reached_cut(entries.logits_E, entries.is_positive_E, precision)
    group_K = np.full(K, 0.0 if math.isnan(everything) else everything)
    for group in np.unique(groups_K):
        of_group_E = groups_K[entries.classes_E] == group
        of_group = entries.logits_E[of_group_E], entries.is_positive_E[of_group_E]
        cut = _reached_cut(*of_group, precision)
        if not math.isnan(cut):
            group_K[groups_K == group] = cut
    bounds = np.searchsorted(entries.classes_E, np.arange(K + 1))
    own_K, is_above_K = np.full(K, math.nan), np.zeros(K, np.bool_)
    for k, (begin, end) in enumerate(itertools.pairwise(bounds)):
        logits_C = entries.logits_E[begin:end]
        own_K[k] = best_cut(logits_C, entries.is_positive_E[begin:end], precision)
        is_above_K[k] = own_K[k] > logits_C.max(initial=-math.inf)
    positives_K = entries.counts(K, entries.is_positive_E)
    support_K = np.minimum(positives_K, entries.counts(K, ~entries.is_positive_E))
    weights_K = np.where(np.isnan(own_K), 0.0, support_K / (support_K + _PRIOR))
    shrunk_K = weights_K * np.nan_to_num(own_K) + (1 - weights_K) * group_K
    return np.where(is_above_K, np.fmax(shrunk_K, own_K), shrunk_K), own_K, weights_K


def _reached_cut(
    logits_C: Floats, is_positive_C: npt.NDArray[np.bool_], precision: float | None
) -> float:
    """Find the cut of several classes together; NaN also where the precision is reached nowhere.

    One above all logits would silence those of the classes that reach the precision.
    """
    cut = best_cut(logits_C, is_positive_C, precision)
    return math.nan if cut > logits_C.max(initial=-math.inf) else cut


def best_cut(
    logits_C: Floats, is_positive_C: npt.NDArray[np.bool_], precision: float | None
) -> float:
    """Find the threshold of maximal F1, or of maximal recall at a precision; NaN without positives.

    Between two logits it lies in their middle; of equally good ones it is the highest. Where the
    precision is reached nowhere, it is the next fp32 number above all logits.
    """
    order = np.argsort(-logits_C, kind="stable")
    logits, right = logits_C[order], np.cumsum(is_positive_C[order])
    if not len(right) or not right[-1]:
        return math.nan
    taken = np.arange(1, len(right) + 1)
    is_cut = np.append(logits[1:] < logits[:-1], True)
    if precision is None:
        quality = np.where(is_cut, 2 * right / (taken + right[-1]), -1.0)
    else:
        quality = np.where(is_cut & (right / taken >= precision), right, -1.0)
    place = int(np.argmax(quality))
    if quality[place] <= 0:
        return float(np.nextafter(np.float32(logits[0]), np.float32(math.inf)))
    last = place + 1 == len(logits)
    return float(logits[place] if last else (logits[place] + logits[place + 1]) / 2)


def temperatures(entries: Entries, groups_K: npt.NDArray[np.integer]) -> Floats:
    """Fit a temperature per group (Guo et al. 2017); returns that of each class's group (K,).

    The likelihood has a normal prior of log T, of standard deviation 0.5, around that of all
    entries, which has one around T = 1; a group without entries has that of all. The prior is
    inferred: without one, few entries ran to a bound. In a simulation (1 to 100 entries, true T
    0.5, 2, or spread like the prior) probabilities were no worse than uncalibrated ones at any
    size, with 0.3 and 0.7 they gained less at some; where T = 1 was the truth, 0.008 nats of the
    mean likelihood were lost at most.
    """
    groups = np.unique(groups_K[entries.classes_E])
    of_all = _temperature(entries.logits_E, entries.is_positive_E, 1.0)
    found_K = np.full(len(groups_K), of_all)
    if len(groups) > 1:  # the entries of an only one would count twice
        for group in groups:
            of_group_E = groups_K[entries.classes_E] == group
            found_K[groups_K == group] = _temperature(
                entries.logits_E[of_group_E], entries.is_positive_E[of_group_E], of_all
            )
    return found_K


def _temperature(logits_C: Floats, is_positive_C: npt.NDArray[np.bool_], expected: float) -> float:
    """Bisect the slope of likelihood times prior over log(1 / T), around an expected T."""
    low, high = math.log(1 / _HOTTEST), math.log(1 / _COLDEST)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        residuals = is_positive_C - probabilities(logits_C, math.exp(-middle))
        slope = math.exp(middle) * float((residuals * logits_C).sum())
        if slope > (middle + math.log(expected)) / _SPREAD**2:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)


def probabilities(logits: Floats, temperature: float | Floats) -> Floats:
    """Compute ``sigmoid(logits / temperature)``."""
    return 0.5 * (1 + np.tanh(0.5 * logits / temperature))


def f1(entries: Entries, thresholds_K: Floats) -> dict[str, float]:
    """Compute F1 over verified entries: "micro", and "macro" over classes with positives."""
    K = len(thresholds_K)
    taken_E = entries.logits_E >= thresholds_K[entries.classes_E]
    right_K = entries.counts(K, taken_E & entries.is_positive_E)
    positives_K = entries.counts(K, entries.is_positive_E)
    sizes_K = entries.counts(K, taken_E) + positives_K
    counted_K = positives_K > 0
    each_K = 2 * right_K[counted_K] / sizes_K[counted_K]
    return {
        "macro": float(each_K.mean()) if len(each_K) else math.nan,
        "micro": float(2 * right_K.sum() / sizes_K.sum()) if sizes_K.any() else math.nan,
    }


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Operating points, and the verified entries of a split to judge them by.

    Attributes:
        points: of a class list.
        entries: verified ones of it.
        precision: that the points were chosen for on these entries; None for another criterion,
            and for points of a checkpoint.
    """

    points: OperatingPoints
    entries: Entries
    precision: float | None = None

    @property
    def f1(self) -> dict[str, dict[str, float]]:
        """F1 of the "own" thresholds, and of one global probability of a "half"."""
        thresholds_K = self.points.thresholds_K
        return {
            "own": f1(self.entries, thresholds_K),
            "half": f1(self.entries, np.zeros_like(thresholds_K)),
        }

    def __str__(self) -> str:
        rows = [f"thresholds  {self.points}"]
        names = {"own": "these thresholds", "half": "one global 0.5"}
        for key, means in self.f1.items():
            text = ", ".join(f"{name} {100 * value:.1f}" for name, value in means.items())
            rows.append(f"F1 (%)      {names[key]}: {text}")
        if self.precision is not None:
            rows.append(f"precision   {self._reached(self.precision)}")
        return "\n".join(rows)

    def _reached(self, target: float) -> str:
        """Count the classes that miss a target of precision on the entries."""
        K, thresholds_K = len(self.points.thresholds), self.points.thresholds_K
        taken_E = self.entries.logits_E >= thresholds_K[self.entries.classes_E]
        taken_K = self.entries.counts(K, taken_E)
        right_K = self.entries.counts(K, taken_E & self.entries.is_positive_E)
        positives_K = self.entries.counts(K, self.entries.is_positive_E)
        below = np.count_nonzero((taken_K > 0) & (right_K / np.maximum(taken_K, 1) < target))
        silent = np.count_nonzero((positives_K > 0) & (taken_K == 0))
        verified = np.count_nonzero(np.bincount(self.entries.classes_E, minlength=K))
        return (
            f"below {target:g} on these entries for {below:,} of {count(int(verified), 'class')}; "
            f"of {silent:,} more, which have positives, nothing is called present"
        )


def clopper_pearson(
    hits_K: npt.NDArray[np.integer], trials_K: npt.NDArray[np.integer]
) -> tuple[Floats, Floats]:
    """Compute exact 95 % intervals of shares: (low_K, high_K); 0 and 1 without trials."""
    tail = (1 - _CONFIDENCE) / 2
    misses_K = trials_K - hits_K
    low_K = special.betaincinv(np.maximum(hits_K, 1), misses_K + 1, tail)
    high_K = special.betaincinv(hits_K + 1, np.maximum(misses_K, 1), 1 - tail)
    return np.where(hits_K > 0, low_K, 0.0), np.where(misses_K > 0, high_K, 1.0)
