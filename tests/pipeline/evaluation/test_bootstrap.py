"""Confidence intervals and differences: the weighted AP behind them, their pairing, their size."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipeline.evaluation import bootstrap
from pipeline.evaluation.metrics import MEANS, Summary, average_precision, summarize
from pipeline.evaluation.scores import BOOST_OFF, BOOST_ON, Scores
from sharding.errors import InputError
from tests.pipeline.evaluation.entries import make_scores, reordered

NUM_CLASSES = 10
GROUPS = np.arange(NUM_CLASSES) // 2 + 1
TWENTY = np.arange(20) // 4 + 1


def tied_scores(seed: int, size: int = 3000, images: int = 400) -> Scores:
    """Entries with ties; positives score higher by a half on average."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    logits = np.round(4 * (rng.normal(size=size) + 0.5 * labels)) / 4
    classes = rng.integers(0, NUM_CLASSES, size)
    return make_scores(logits, labels, classes, rng.integers(0, images, size).astype("u8") * 977)


def summary_of(entries: Scores) -> Summary:
    ap_K = average_precision(entries.raw_E, entries.labels_E, entries.classes_E, NUM_CLASSES)
    none = np.zeros(NUM_CLASSES, int)
    positives_K = np.bincount(entries.classes_E[entries.labels_E == 1], minlength=NUM_CLASSES)
    return summarize(ap_K, GROUPS, positives_K, none)


def test_a_replicate_is_scikit_learn_with_sample_weights() -> None:
    entries = tied_scores(0)
    images, image_E = np.unique(entries.image_ids_E, return_inverse=True)
    ranked = bootstrap._Ranking.of(entries, entries.raw_E, image_E)
    for seed in range(3):
        drawn_N = np.random.default_rng(seed).integers(0, 3, len(images))
        ap_K, _ = ranked.weighted_ap(drawn_N, NUM_CLASSES)
        for k in range(NUM_CLASSES):
            mine = entries.classes_E == k
            expected = average_precision_score(
                entries.labels_E[mine],
                entries.raw_E[mine],
                sample_weight=drawn_N[image_E[mine]],
            )
            assert ap_K[k] == pytest.approx(expected, abs=1e-9)


def test_classes_of_a_replicate_weigh_what_was_drawn_of_them() -> None:
    # Two images, a class each, of AP 1 and 1/2: drawn are both, or one of them twice.
    entries = make_scores([1, 1, 2], [1, 1, 0], [0, 1, 1], np.array([0, 1, 1]))
    weighted_R = bootstrap.resample(entries, np.array([1, 2]), replicates=40)[:, -1]
    assert set(weighted_R) == {0.5, 0.75, 1.0}


def test_replicates_do_not_depend_on_the_order_of_entries() -> None:
    entries = tied_scores(1)
    shuffled = np.random.default_rng(5).permutation(len(entries.labels_E))
    other = reordered(entries, shuffled)
    first = bootstrap.resample(entries, GROUPS, replicates=5)
    assert first.tobytes() == bootstrap.resample(other, GROUPS, replicates=5).tobytes()
    assert (first != bootstrap.resample(entries, GROUPS, replicates=5, seed=1)).any()


def test_interval_holds_the_estimate_and_shrinks_with_data() -> None:
    widths = []
    for images in (200, 3200):
        entries = tied_scores(2, size=8 * images, images=images)
        means = bootstrap.resample(entries, GROUPS, replicates=100)
        found = bootstrap.intervals(summary_of(entries), means)
        assert list(found) == list(MEANS)
        estimate = summary_of(entries).map_all
        assert found["all"].low < estimate < found["all"].high
        assert found["all"].high - found["all"].low < found["group_1"].high - found["group_1"].low
        weighted = summary_of(entries).map_weighted
        assert found["weighted"].low < weighted < found["weighted"].high
        widths.append(found["all"].high - found["all"].low)
    # Sixteen times the data, about a quarter of the width.
    assert 2.5 < widths[0] / widths[1] < 6.5


def test_what_is_added_on_the_same_images_has_its_own_interval() -> None:
    entries = tied_scores(2)
    noise_E = 0.2 * np.random.default_rng(0).normal(size=len(entries.raw_E)).astype(np.float32)
    boosted_E = entries.raw_E + 0.3 * entries.labels_E + noise_E
    scores = dataclasses.replace(entries, boosted_E=boosted_E)
    pair = {
        BOOST_OFF: summary_of(entries),
        BOOST_ON: summary_of(dataclasses.replace(entries, raw_E=boosted_E)),
    }
    found = bootstrap.all_intervals(pair, scores, GROUPS, "boostlu", 100)
    added, alone = found[bootstrap.DIFFERENCE]["all"], found[BOOST_OFF]["all"]
    assert added.low < pair[BOOST_ON].map_all - pair[BOOST_OFF].map_all < added.high
    assert added.high - added.low < 0.6 * (alone.high - alone.low), "luck of the draw is shared"
    same = dataclasses.replace(entries, boosted_E=entries.raw_E)
    pair[BOOST_ON] = pair[BOOST_OFF]
    none = bootstrap.all_intervals(pair, same, GROUPS, "boostlu", 5)[bootstrap.DIFFERENCE]["all"]
    assert np.isnan([none.low, none.high]).all(), "no draw makes a difference of equal scores"
    assert bootstrap.all_intervals(pair, same, GROUPS, "boostlu", 0) == {}


def test_a_class_without_drawn_positive_is_left_out_and_rules_hold() -> None:
    # Class 0 has one positive; class 1 none, so it stays 0 in every replicate; class 2 nothing.
    size = 40
    each = np.arange(size)
    entries = make_scores(each, each == size - 2, each % 2)
    groups = np.array([1, 2, 3, 4, 5])
    means = bootstrap.resample(entries, groups, replicates=60)
    first = means[:, 0]
    assert np.isnan(first).any()
    assert (first[~np.isnan(first)] == 1.0).all()
    assert (means[:, 1] == 0).all()
    assert np.isnan(means[:, 2]).all()
    strict = bootstrap.resample(entries, groups, rule="csl", replicates=5)
    assert np.isnan(strict[:, 1]).all()


def pair(lift: float, seed: int = 0, size: int = 4000) -> tuple[Scores, Scores]:
    """Two runs whose scores share most of their noise; the second's positives are higher."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size).astype(np.int8)
    base = rng.normal(size=size) + labels
    logits = base + 0.3 * rng.normal(size=size)
    first = make_scores(logits, labels, rng.integers(0, 20, size), rng.integers(0, 500, size))
    boosted = (base + lift * labels + 0.3 * rng.normal(size=size)).astype(np.float32)
    return first, dataclasses.replace(first, boosted_E=boosted)


def test_a_real_difference_is_significant_and_no_difference_is_not() -> None:
    better = bootstrap.compare(*pair(0.4), TWENTY, replicates=150)
    assert list(better) == list(MEANS)
    assert better["all"].delta > 0
    assert better["all"].interval.low > 0
    assert better["all"].p_value < 0.02
    same = bootstrap.compare(*pair(0.0), TWENTY, replicates=150)
    assert same["all"].p_value > 0.05
    assert same["all"].interval.low < 0 < same["all"].interval.high


@pytest.mark.parametrize("count", [20, 99, 199, 200, 500])
@pytest.mark.parametrize("decimals", [1, 6])
def test_an_interval_leaves_out_0_exactly_where_p_is_small(count: int, decimals: int) -> None:
    """Also of tied replicates, and of a difference that is as far as one of them strays."""
    rng = np.random.default_rng(count)
    replicates_R = np.round(rng.normal(0.3, 1, count), decimals)
    strays = np.abs(replicates_R - np.median(replicates_R))
    holding = []
    for delta in (*rng.choice(strays, 15), *np.sort(strays)[-30:], *rng.normal(0, 2, 15), 0.0):
        found = bootstrap._interval_of_difference(delta, replicates_R)
        p = bootstrap._p_value(delta, np.append(replicates_R, np.nan))
        holding.append(found.low <= 0 <= found.high)
        assert holding[-1] == (p >= 0.05)
    assert 0 < np.mean(holding) < 1


def test_intervals_of_few_images_hold_0_for_equal_runs() -> None:
    """Forty images, forty classes: percentiles held it for every second pair of runs."""
    rng, classes, images = np.random.default_rng(1), 40, 40
    groups, rates = np.arange(classes) // 8 + 1, np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], 8)
    holds = []
    for _ in range(6):
        ids = np.repeat(np.arange(images), 4)
        drawn = np.concatenate([rng.permutation(classes)[:4] for _ in range(images)])
        labels = rng.random(len(ids)) < rates[drawn]
        shared = 2 * labels + rng.normal(0, 0.7, len(ids))
        first, second = (
            make_scores(shared + rng.normal(0, 0.7, len(ids)), labels, drawn, ids) for _ in range(2)
        )
        found = bootstrap.compare(first, second, groups, replicates=50).values()
        bounds = [d.interval for d in found if not math.isnan(d.interval.low)]
        holds += [bound.low <= 0 <= bound.high for bound in bounds]
    assert np.mean(holds) > 0.85


def test_what_no_draw_changes_has_no_interval() -> None:
    """Group 1 is ranked perfectly in every draw, whatever its class is like elsewhere."""
    first, _ = pair(0.0, size=600)
    perfect_E = np.where(first.classes_E == 0, 10.0 * first.labels_E - 5, first.raw_E)
    perfect = dataclasses.replace(first, raw_E=perfect_E.astype(np.float32))
    groups_K = np.array([1, *[2] * 19])
    ap_K = average_precision(perfect.raw_E, perfect.labels_E, perfect.classes_E, 20)
    positives_K = np.bincount(perfect.classes_E[perfect.labels_E == 1], minlength=20)
    means = summarize(ap_K, groups_K, positives_K, np.zeros(20, int))
    means_RM = bootstrap.resample(perfect, groups_K, boosted=False, replicates=20)
    found = bootstrap.intervals(means, means_RM)
    assert means.map_groups[1] == 1
    assert np.isnan([found["group_1"].low, found["group_1"].high]).all()
    assert found["group_2"].low < means.map_groups[2] < found["group_2"].high
    # One image with an entry of each label, ranked right by one run only: p would be 1 in 21.
    sure = np.full(20, 0.5)
    assert math.isnan(bootstrap._p_value(0.5, sure))
    assert math.isnan(bootstrap._interval_of_difference(0.5, sure).low)
    assert bootstrap._p_value(0.0, np.zeros(20)) == 1


def test_a_run_against_itself_differs_by_nothing() -> None:
    first, _ = pair(0.4)
    found = bootstrap.compare(first, first, TWENTY, replicates=20)
    assert {d.delta for d in found.values()} == {0.0}
    assert {d.p_value for d in found.values()} == {1.0}


def test_pairing_is_by_entry_whatever_their_order() -> None:
    first, second = pair(0.4)
    order = np.random.default_rng(1).permutation(len(second.labels_E))
    shuffled = reordered(second, order)
    expected = bootstrap.compare(first, second, TWENTY, replicates=20)
    assert bootstrap.compare(first, shuffled, TWENTY, replicates=20) == expected


def test_other_entries_are_refused() -> None:
    first, second = pair(0.4)
    relabelled = dataclasses.replace(second, labels_E=1 - second.labels_E)
    with pytest.raises(InputError, match="different entries"):
        bootstrap.compare(first, relabelled, TWENTY)
