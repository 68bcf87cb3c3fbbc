"""Thresholds against a search over all cuts, intervals against SciPy's, temperatures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.inference import choose_points
from pipeline.inference.choose_points import Decisions, Entries
from pipeline.models.operating_points import OperatingPoints
from sharding.classes import ClassTable

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
        if not taken.any():
            return 0
        if precision is None:
            return 2 * right / (taken.sum() + is_positive.sum())
        return right if right / taken.sum() >= precision else 0

    cut = choose_points.best_cut(logits, is_positive, precision)
    if not is_positive.any():
        assert math.isnan(cut)
        return
    best = max(quality(value) for value in logits)
    assert quality(cut) == pytest.approx(best) if best > 0 else cut > logits.max()


def test_a_precision_that_is_just_reached_is_reached() -> None:
    right = np.arange(20) < 11
    assert choose_points.best_cut(np.zeros(20), right, 0.55) == 0  # 0.55 * 20 is more than 11


def test_where_a_precision_is_not_reached_nothing_is_called_present() -> None:
    """Weak scores everywhere; then one weak class beside a good one, whose threshold it took."""
    generator = np.random.default_rng(0)
    labels, classes = generator.random(1200) < 0.2, np.repeat([0, 1, 2], 400)
    noise = generator.normal(size=1200).astype(np.float32)
    noise[0] = 4.0
    labels &= noise < 1.5  # by luck the highest few might be positives
    table = ClassTable.build(
        [f"/m/{k}" for k in range(5)], list("abcde"), np.arange(5), np.zeros(5, int)
    )
    weak = Entries.of(noise, labels, classes)
    found = choose_points.choose(weak, table, precision=0.9, source="these")
    taken = weak.logits_E >= found.thresholds_K[weak.classes_E]
    assert not taken.any()
    assert found.columns["precision"][:3] == [None] * 3
    assert "below 0.9 on these entries for 0 of 3 classes; of 3 more, which have positives" in str(
        Decisions(points=found, entries=weak, precision=0.9)
    )
    mixed = Entries.of(noise + 6 * labels * (classes > 0), labels, classes)
    shrunk_K, own_K, weights_K = choose_points.thresholds(mixed, np.array([1, 1, 2]), 0.9)
    of_weak = mixed.logits_E[mixed.classes_E == 0]
    assert shrunk_K[0] == own_K[0] > of_weak.max() > shrunk_K[1]
    assert own_K[0] == pytest.approx(of_weak.max(), abs=1e-5)
    assert (weights_K < 1).all()
    # By F1 there is always a best one.
    own_K = choose_points.thresholds(mixed, np.array([1, 1, 2]))[1]
    assert own_K[0] < of_weak.max()


def test_a_group_that_misses_a_precision_silences_no_class_that_reaches_it() -> None:
    ranked = [(x, int(x > 0), 1) for x in (-4.0, -3.0, -2.0, -1.0, 2.0, 2.5, 3.0, 3.5)]
    # Highest of its group, and of all: a negative of a class that has a good many.
    noisy = [(9.0, 0, 0), *((x, int(x > 6.9), 0) for x in np.linspace(-3, 7, 200))]
    other = [(x, int(x > 0), 2) for x in np.linspace(-20, 20, 400)]
    alone = entries(*ranked, *noisy)
    shrunk_K, own_K, weights_K = choose_points.thresholds(alone, GROUPS_K, 0.95)
    assert own_K[1] == 0.5
    assert shrunk_K[1] == pytest.approx(0.5 * 4 / 14), "beside 0, as without any entries"
    assert shrunk_K[0] == own_K[0] > 9, "nothing of the class that misses it"
    assert shrunk_K[2] == 0
    both = entries(*ranked, *noisy, *other)
    everything = choose_points.best_cut(both.logits_E, both.is_positive_E, 0.95)
    assert 1 < everything < 20
    shrunk_K = choose_points.thresholds(both, GROUPS_K, 0.95)[0]
    assert shrunk_K[1] == pytest.approx(0.5 * 4 / 14 + everything * 10 / 14)
    assert weights_K[1] == pytest.approx(4 / 14)


def test_classes_below_the_target_are_counted() -> None:
    """Few entries take their group's threshold, which is too low for them."""
    good = [(x, int(x > 0), 0) for x in np.linspace(-3, 3, 300)]
    poor = [(2.5, 1, 1), (2.0, 0, 1), (1.0, 1, 1), (-2.0, 0, 1), (3.0, 0, 2)]
    points = OperatingPoints(
        criterion="",
        source="",
        classes_sha256="",
        thresholds=[0.0] * 3,
        temperatures=[1.0] * 3,
    )
    both = Decisions(points=points, entries=entries(*good, *poor), precision=0.9)
    assert "below 0.9 on these entries for 2 of 3 classes; of 0 more" in str(both)
    assert "below" not in str(Decisions(points=points, entries=both.entries))


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
    separated = entries(*[(9.0, 1, 0), (-9.0, 0, 0)] * 10_000)
    assert 0.05 <= choose_points.temperatures(separated, GROUPS_K)[0] < 0.8


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_probabilities_of_few_entries_are_no_worse_than_uncalibrated_ones(scale: float) -> None:
    """Beside a large group of the same temperature, and alone; NLL by the true probabilities."""
    generator = np.random.default_rng(1)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        logits = 2.5 * generator.normal(size=size)
        return logits * scale, generator.random(size) < 1 / (1 + np.exp(-logits))

    test, large = draw(4000)[0], draw(4000)
    present = 1 / (1 + np.exp(-test / scale))

    def loss(temperature: float) -> float:
        z = test / temperature
        return float((present * np.logaddexp(0, -z) + (1 - present) * np.logaddexp(0, z)).mean())

    for few in (1, 3, 10):
        alone, beside = [], []
        for _ in range(40):
            logits, labels = draw(few)
            classes = np.zeros(few, int)
            found = choose_points.temperatures(Entries.of(logits, labels, classes), GROUPS_K)
            alone.append(loss(found[0]))
            together = Entries.of(
                np.append(logits, large[0]),
                np.append(labels, large[1]),
                np.append(classes, np.full(4000, 2)),
            )
            beside.append(loss(choose_points.temperatures(together, GROUPS_K)[0]))
        assert np.mean(alone) < loss(1.0) + 0.01
        assert np.mean(beside) < loss(scale) + 0.01


@given(
    st.lists(st.tuples(st.floats(-8, 8), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([0.3, 1.0, 4.0]),
)
def test_a_temperature_is_the_most_likely_one_of_its_prior(rows, expected: float) -> None:
    logits, labels = (np.array(column, float) for column in zip(*rows, strict=True))
    margins = np.where(labels > 0, logits, -logits)

    def minus_log(temperature: float) -> float:
        prior = (math.log(temperature / expected) / 0.5) ** 2 / 2
        return float(np.logaddexp(0, -margins / temperature).sum() + prior)

    found = choose_points._temperature(logits, labels > 0, expected)
    assert minus_log(found) <= min(map(minus_log, np.geomspace(0.05, 20, 200))) + 1e-9


def test_f1_of_a_small_table() -> None:
    found = entries((1, 1, 0), (-1, 1, 0), (1, 0, 0), (3, 1, 1), (5, 0, 2))
    scores = choose_points.f1(found, np.array([0.0, 4.0, 9.0]))
    assert scores["macro"] == pytest.approx((2 / 4 + 0) / 2)
    assert scores["micro"] == pytest.approx(2 / (2 + 3))
