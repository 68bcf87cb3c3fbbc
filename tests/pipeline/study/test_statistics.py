"""Intervals and p-values are scipy's, those of crossed seeds and draws cover what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.study.statistics import estimate, holm


def test_over_seeds_it_is_students_interval() -> None:
    values = np.array([0.71, 0.74, 0.69, 0.73])
    found = estimate(values[:, None])
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=1e-12)
    assert (found.mean, found.count) == (pytest.approx(values.mean()), 4)


def test_differences_are_the_paired_t_test() -> None:
    first, second = np.random.default_rng(0).normal(0.7, 0.02, (2, 5))
    found = estimate((first - second)[:, None])
    reference = stats.ttest_rel(first, second)
    interval = reference.confidence_interval(0.95)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_one_seed_of_many_draws_is_the_same_over_draws() -> None:
    values = np.array([0.71, 0.74, 0.69])
    assert estimate(values[None, :]) == estimate(values[:, None])


def test_by_hand() -> None:
    found = estimate(np.array([[1.0], [2.0], [3.0]]))
    # Deviation 1, error 1 / sqrt(3), t of two degrees of freedom 4.302653.
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("values", [[[0.5]], [[np.nan], [0.5]]])
def test_one_value_has_no_interval(values: list[list[float]]) -> None:
    found = estimate(np.array(values))
    assert (found.mean, found.count) == (0.5, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.p)


def test_no_value_is_no_number() -> None:
    found = estimate(np.full((3, 2), np.nan))
    assert found.count == 0
    assert math.isnan(found.mean)


def test_equal_values_have_no_p() -> None:
    found = estimate(np.full((3, 1), 0.5))
    assert (found.low, found.high) == (0.5, 0.5)
    assert math.isnan(found.p)


def test_a_seed_that_lacks_a_draw_does_not_count() -> None:
    whole = np.array([[0.1, 0.2], [0.3, 0.5], [0.2, 0.2]])
    cut = np.vstack([whole, [0.9, np.nan]])
    assert estimate(cut) == estimate(whole)


def test_a_run_that_serves_all_draws_counts_once_per_seed() -> None:
    values = np.array([0.71, 0.74, 0.69])
    repeated, once = estimate(np.repeat(values[:, None], 4, axis=1)), estimate(values[:, None])
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))


def test_crossed_effects_by_hand() -> None:
    # Rows 1, 3, columns +0, +2: MS_S = 2 x 2 = 4, MS_D = 4, no rest; variance (4 + 4) / 4.
    found = estimate(np.array([[1.0, 3.0], [3.0, 5.0]]))
    freedom = 8**2 / (4**2 / 1 + 4**2 / 1)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(2))


def test_the_interval_of_crossed_effects_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng, covered, naive, rounds = np.random.default_rng(1), 0, 0, 2000
    for _ in range(rounds):
        values_SD = rng.normal(0, 1, (4, 1)) + rng.normal(0, 1, (1, 4)) + rng.normal(0, 1, (4, 4))
        found = estimate(values_SD)
        covered += found.low <= 0 <= found.high
        interval = stats.ttest_1samp(values_SD.ravel(), 0).confidence_interval(0.95)
        naive += interval.low <= 0 <= interval.high
    assert 0.93 <= covered / rounds <= 0.98
    assert naive / rounds < 0.85, "sixteen runs are not sixteen independent ones"


def test_holm_by_hand() -> None:
    # 0.01 x 4, then max(0.04, 0.02 x 3), max(0.06, 0.03 x 2), 0.5.
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])


def test_holm_leaves_out_what_is_no_number_and_stays_below_one() -> None:
    adjusted = holm([0.6, math.nan, 0.7])
    assert adjusted[0] == adjusted[2] == 1.0
    assert math.isnan(adjusted[1])
    assert holm([]) == []
