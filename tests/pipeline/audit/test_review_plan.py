"""The review planner: influences against a numerical derivative, allocations against all others."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from pipeline.audit import review_plan
from pipeline.audit.review_plan import Pool, Precision

GROUPS_K = np.array([1, 1, 1, 2])


def precision(labels: list[int], variances: list[float]) -> Precision:
    return Precision(
        groups_K=GROUPS_K, labels_K=np.array(labels), variances_K=np.array(variances, float)
    )


def test_no_other_allocation_of_so_many_labels_is_better() -> None:
    before = precision([2, 5, 1, 3], [0.2, 0.1, 0.05, 0.4])

    def variance(more_K: np.ndarray) -> float:
        return float((before.weights_K**2 * before.standard_errors(more_K) ** 2).sum())

    budget = 6
    sequence = review_plan.allocate(before, budget)
    ours = variance(np.bincount(sequence, minlength=4))
    others = (c for c in itertools.product(range(budget + 1), repeat=4) if sum(c) == budget)
    assert ours == pytest.approx(min(variance(np.array(more)) for more in others))
    # Every beginning of the sequence is the best of its length.
    for count in range(budget):
        assert (review_plan.allocate(before, count) == sequence[:count]).all()


def test_with_many_labels_it_is_neymans_allocation() -> None:
    before = precision([1, 1, 1, 1], [0.04, 0.16, 0.01, 0.09])
    labels_K = 1 + np.bincount(review_plan.allocate(before, 20_000), minlength=4)
    shares_K = before.weights_K * np.sqrt(before.variances_K)
    assert labels_K / labels_K.sum() == pytest.approx(shares_K / shares_K.sum(), abs=1e-3)


def test_a_class_gets_no_more_than_there_is_and_none_without_ap() -> None:
    before = precision([1, 5, 0, 5], [0.5, 0.1, 0.5, 0.1])
    sequence = review_plan.allocate(before, 10, np.array([2, 1, 9, 3]))
    assert np.bincount(sequence, minlength=4).tolist() == [2, 1, 0, 3]
    assert before.weights_K.tolist() == [1 / 4, 1 / 4, 0, 1 / 2]


def test_the_interval_expected_is_that_of_independent_classes() -> None:
    before = precision([4, 9, 0, 16], [0.36, 0.09, 7, 0.64])
    widths = before.half_widths(np.array([0, 0, 0, 48]))
    assert widths[1] == pytest.approx(1.959964 * math.sqrt(0.09 + 0.01) / 2)
    assert widths[2] == pytest.approx(1.959964 * 0.1)
    assert math.isnan(widths[3])


def test_few_positives_take_their_groups_variance() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 3], [200, 3, 100])
    labels = np.concatenate([rng.random(200) < 0.5, [True, False, False], np.zeros(100, bool)])
    scores = rng.normal(size=303) + labels
    found = review_plan.estimate(scores, labels, classes, GROUPS_K)
    own_K = review_plan.variances(scores, labels, classes, 4)
    r = min(labels[:200].sum(), 200 - labels[:200].sum())
    group = (own_K[0] * r + own_K[1] * 1) / (r + 1)
    assert found.labels_K.tolist() == [200, 3, 0, 100]
    assert found.variances_K[0] == pytest.approx((r * own_K[0] + 10 * group) / (r + 10))
    assert found.variances_K[1] == pytest.approx((own_K[1] + 10 * group) / 11)
    # Group 2 shows no positive: it takes the variance of all.
    assert found.variances_K[3] == pytest.approx(group)


def test_a_group_that_is_ranked_perfectly_takes_the_variance_of_all() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 3], [200, 60, 20])
    labels = rng.random(280) < 0.5
    scores = np.where(classes == 3, 10.0 * labels, rng.normal(size=280) + labels)
    found = review_plan.estimate(scores, labels, classes, GROUPS_K)
    own_K = review_plan.variances(scores, labels, classes, 4)
    assert own_K[3] == pytest.approx(0, abs=1e-12)
    rarer_K = [min(labels[classes == k].sum(), (~labels[classes == k]).sum()) for k in (0, 1, 3)]
    of_all = np.average(own_K[[0, 1, 3]], weights=rarer_K)
    assert found.variances_K[3] == pytest.approx(10 * of_all / (rarer_K[2] + 10))
    assert found.half_widths(np.zeros(4, int))[2] > 0.05
    assert np.bincount(review_plan.allocate(found, 20), minlength=4)[3] > 0


def test_entries_are_drawn_to_score_as_the_verified_ones() -> None:
    rng = np.random.default_rng(1)
    verified = rng.normal(2, 0.5, 60)
    pool = Pool(
        image_ids_M=np.arange(5000, dtype=np.uint64),
        classes_M=np.repeat([1, 2], [4000, 1000]),
        scores_M=rng.normal(0, 1.5, 5000),
    )
    sequence = np.array([1] * 120 + [2] * 3)
    scores, classes = np.append(verified, 0.0), np.append(np.ones(60, int), 2)
    places = review_plan.draw(sequence, pool, scores, classes)
    assert len(set(places.tolist())) == 123
    assert (pool.classes_M[places] == sequence).all()
    drawn = pool.scores_M[places[:120]]
    assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(verified, [0.1, 0.5, 0.9]), abs=0.1
    )
    assert (places == review_plan.draw(sequence, pool, scores, classes)).all()


def test_of_a_pool_all_can_be_drawn() -> None:
    pool = Pool(
        image_ids_M=np.arange(4, dtype=np.uint64),
        classes_M=np.zeros(4, int),
        scores_M=np.array([5.0, -1.0, 2.0, 2.0]),
    )
    places = review_plan.draw(np.zeros(4, int), pool, np.array([2.2]), np.array([0]))
    assert sorted(places.tolist()) == [0, 1, 2, 3]
    assert set(places[:2].tolist()) == {2, 3}


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12))
def test_an_influence_is_the_derivative_of_ap(rows) -> None:
    scores, labels = (np.array(column, float) for column in zip(*rows, strict=True))
    if not labels.any():
        assert not review_plan.influences(scores, labels > 0).any()
        return
    C, step = len(scores), 1e-6
    found = review_plan.influences(scores, labels > 0)
    for c in range(C):
        aps = []
        for sign in (1, -1):
            weights = np.ones(C)
            weights[c] += sign * step
            aps.append(average_precision_score(labels, scores, sample_weight=weights))
        # An entry's weight grows by the step; its share of the distribution by a C-th of it.
        assert found[c] == pytest.approx(C * (aps[0] - aps[1]) / (2 * step), abs=1e-4)
    assert found.mean() == pytest.approx(0, abs=1e-9)


def test_values_by_hand() -> None:
    # Scores 3+, 2-, 1+: precisions 1 and 2/3, AP 5/6; H is 2/3 and 5/3, J 2/9 and 11/9 of it.
    found = review_plan.influences(np.array([3.0, 2.0, 1.0]), np.array([True, False, True]))
    third, first = 1 / 3, 1 / 3 + 1
    j_third, j_first = 2 / 9, 2 / 9 + 1
    by_hand = [
        1.5 * (1 + first - 5 / 6 - j_first),
        1.5 * (0 - j_third),
        1.5 * (2 / 3 + third - 5 / 6 - j_third),
    ]
    assert found == pytest.approx(by_hand)


def test_the_variance_is_that_of_other_samples() -> None:
    rng = np.random.default_rng(0)
    n, draws = 400, 400

    def sample() -> tuple[np.ndarray, np.ndarray]:
        labels = rng.random(n) < 0.3
        return rng.normal(size=n) + 1.5 * labels, labels

    samples = [sample() for _ in range(draws)]
    spread = np.var([average_precision_score(y, s) for s, y in samples])
    nothing = np.zeros(n, int)
    expected = [review_plan.variances(s, y, nothing, 1)[0] / n for s, y in samples[:100]]
    assert np.mean(expected) == pytest.approx(spread, rel=0.2)


def test_each_class_is_by_itself() -> None:
    scores = np.array([1.0, 2.0, 3.0, 0.5, 9.0, 8.0])
    labels = np.array([True, False, True, False, True, False])
    classes = np.array([2, 2, 2, 0, 0, 0])
    found_K = review_plan.variances(scores, labels, classes, 4)
    for k in (0, 2):
        alone = review_plan.influences(scores[classes == k], labels[classes == k])
        assert found_K[k] == pytest.approx((alone**2).mean())
    assert found_K[[1, 3]].tolist() == [0, 0]
