"""Estimate means over seeds and draws with intervals, and adjust p-values for many comparisons.

Values form a matrix of S seeds by D draws of labels; NaN where there is none. With one draw (or one
seed) the interval is Student's over the S (or D) values, and the p-value that of the paired t-test
where the values are differences. With several of both, runs that share a seed or a draw are not
independent: the variance of the mean is that of two crossed random effects without replication,
(MS_S + MS_D - MS_SD) / SD, with Satterthwaite's degrees of freedom. With two seeds or two draws
that rests on one difference, which is small by chance too often: the variance is then at least the
larger of MS_S and MS_D, and no effect is taken for absent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: NaN without a value.
        low, high: NaN with fewer than two values.
        p: two-sided, of the mean being 0; NaN where there is no interval or no variation.
        count: values that the mean is of.
    """

    mean: float
    low: float
    high: float
    p: float
    count: int


def estimate(values_SD: npt.NDArray[np.float64]) -> Estimate:
    """Estimate the mean of (seeds, draws); a seed that lacks a draw counts for nothing.

    Where there is only one seed, a draw that is NaN counts for nothing.
    """
    units_SD = values_SD.T if len(values_SD) == 1 else values_SD
    units_SD = units_SD[~np.isnan(units_SD).any(axis=1)]
    if not units_SD.size:
        return Estimate(mean=math.nan, low=math.nan, high=math.nan, p=math.nan, count=0)
    mean = float(units_SD.mean())
    variance, freedom = _variance_of_mean(units_SD)
    error = math.sqrt(variance)
    if not freedom:
        return Estimate(mean=mean, low=math.nan, high=math.nan, p=math.nan, count=units_SD.size)
    width = float(stats.t.ppf((1 + _LEVEL) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else math.nan
    return Estimate(mean=mean, low=mean - width, high=mean + width, p=p, count=units_SD.size)


def _variance_of_mean(values_SD: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom; (0, 0) of a single seed or value."""
    seeds, draws = values_SD.shape
    if seeds == 1:
        return 0.0, 0.0
    if draws == 1:
        return float(values_SD.var(ddof=1)) / seeds, seeds - 1
    mean, by_seed_S, by_draw_D = values_SD.mean(), values_SD.mean(axis=1), values_SD.mean(axis=0)
    rest_SD = values_SD - by_seed_S[:, None] - by_draw_D + mean
    freedoms = np.array([seeds - 1, draws - 1, (seeds - 1) * (draws - 1)])
    sums = (
        draws * ((by_seed_S - mean) ** 2).sum(),
        seeds * ((by_draw_D - mean) ** 2).sum(),
        (rest_SD**2).sum(),
    )
    squares = np.array(sums) / freedoms
    total = squares[0] + squares[1] - squares[2]
    if min(seeds, draws) == 2:
        largest = max(total, squares[0], squares[1])
        fitted = total**2 / (squares**2 / freedoms).sum() if total == largest > 0 else 0.0
        return float(largest) / values_SD.size, max(1.0, float(fitted))
    if total <= squares[2]:  # seeds and draws have no effect of their own
        return float(squares[2]) / values_SD.size, float(freedoms[2])
    return float(total) / values_SD.size, float(total**2 / (squares**2 / freedoms).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of one family by Holm's step-down method (1979); NaN is no member."""
    members = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(members):
        largest = max(largest, min(1.0, (len(members) - rank) * p))
        adjusted[i] = largest
    return adjusted
