"""Thresholds against a search over all cuts, intervals against SciPy's, temperatures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.inference import choose_points
from pipeline.inference.choose_points import Entries

GROUPS_K = np.array([1, 1, 2])


def entries(*rows: tuple[float, int, int]) -> Entries:
    """Of (logit, label, class)."""
    logits, labels, classes = (np.array(column) for column in zip(*rows, strict=True))
    return Entries.of(logits, labels, classes)


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([None, 0.5, 0.9, 1.0]),
)
def test_the_cut_is_the_best_of_all_cuts(rows, precision) -> None:
    logits, labels = (np.array(column, float) for column in zip(*rows, strict=True))
    is_positive = labels > 0

    def quality(cut: float) -> float:
        taken = logits >= cut
        right = (taken & is_positive).sum()
        if precision is None:
            return 2 * right / (taken.sum() + is_positive.sum())
        return right if right / taken.sum() >= precision else 0

    cut = choose_points.best_cut(logits, is_positive, precision)
    best = max(quality(value) for value in logits) if is_positive.any() else 0
    if best > 0:
        assert quality(cut) == pytest.approx(best)
    else:
        assert math.isnan(cut)


def test_a_precision_that_is_just_reached_is_reached() -> None:
    right = np.arange(20) < 11
    assert choose_points.best_cut(np.zeros(20), right, 0.55) == 0  # 0.55 * 20 is more than 11


def test_small_classes_take_their_groups_threshold() -> None:
    many = [(x, int(x > 1), 0) for x in np.linspace(-3, 5, 400)]
    few = [(-2.0, 1, 1), (-2.5, 0, 1)]
    found = entries(*many, *few)
    shrunk_K, own_K, weights_K = choose_points.thresholds(found, GROUPS_K)
    assert own_K[:2] == pytest.approx([1, -2.25], abs=0.02)
    assert weights_K.tolist() == pytest.approx([200 / 210, 1 / 11, 0], abs=0.01)
    group = choose_points.best_cut(found.logits_E, found.is_positive_E, None)
    assert shrunk_K[1] == pytest.approx(-2.25 / 11 + group * 10 / 11)
    assert math.isnan(own_K[2])
    assert shrunk_K[2] == group, "a class without entries, in a group without any: all entries"
    empty = Entries.of(*(np.empty(0, kind) for kind in (np.float32, np.int8, np.int64)))
    assert choose_points.thresholds(empty, GROUPS_K)[0].tolist() == [0, 0, 0]
    assert choose_points.temperatures(empty, GROUPS_K).tolist() == [1, 1, 1]


@pytest.mark.parametrize("trials", [0, 1, 7, 40, 1500])
def test_intervals_are_clopper_and_pearsons(trials: int) -> None:
    hits = np.unique(np.linspace(0, trials, 9).astype(int))
    low, high = choose_points.clopper_pearson(hits, np.full(len(hits), trials))
    for k, bounds in zip(hits.tolist(), zip(low, high, strict=True), strict=True):
        if trials:
            exact = stats.binomtest(k, trials).proportion_ci(0.95, "exact")
            assert bounds == pytest.approx((exact.low, exact.high), abs=1e-9)
        else:
            assert bounds == (0, 1)


def test_temperatures_undo_a_scale() -> None:
    generator = np.random.default_rng(0)
    calibrated = generator.normal(size=40_000) * 2
    labels = generator.random(40_000) < 1 / (1 + np.exp(-calibrated))
    classes = generator.integers(0, 2, 40_000) * 2
    scaled = calibrated * np.array([3.0, 0, 0.5])[classes]
    found_K = choose_points.temperatures(Entries.of(scaled, labels, classes), GROUPS_K)
    assert found_K == pytest.approx([3, 3, 0.5], rel=0.05)
    separated = entries((9.0, 1, 0), (-9.0, 0, 0))
    assert 0.05 <= choose_points.temperatures(separated, GROUPS_K)[0] < 0.3


def test_f1_of_a_small_table() -> None:
    found = entries((1, 1, 0), (-1, 1, 0), (1, 0, 0), (3, 1, 1), (5, 0, 2))
    scores = choose_points.f1(found, np.array([0.0, 4.0, 9.0]))
    assert scores["macro"] == pytest.approx((2 / 4 + 0) / 2)
    assert scores["micro"] == pytest.approx(2 / (2 + 3))
