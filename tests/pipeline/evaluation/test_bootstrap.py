"""Confidence intervals: the weighted AP behind them, their pairing and their size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipeline.evaluation import bootstrap
from pipeline.evaluation.metrics import Summary, average_precision, summarize
from pipeline.evaluation.scores import Judged
from sharding.errors import InputError

NUM_CLASSES = 10
GROUPS = np.arange(NUM_CLASSES) // 2 + 1


def judged(seed: int, size: int = 3000, images: int = 400, lift: float = 0.5) -> Judged:
    """Entries with ties; positives score higher by `lift` on average."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size).astype(np.int8)
    scores = np.round(4 * (rng.normal(size=size) + lift * labels)) / 4
    return Judged(
        scores_E=scores.astype(np.float32),
        labels_E=labels,
        class_ids_E=rng.integers(0, NUM_CLASSES, size),
        image_ids_E=rng.integers(0, images, size).astype(np.uint64) * 977,
    )


def summary_of(entries: Judged) -> Summary:
    ap_K = average_precision(entries.scores_E, entries.labels_E, entries.class_ids_E, NUM_CLASSES)
    none = np.zeros(NUM_CLASSES, int)
    positives_K = np.bincount(entries.class_ids_E[entries.labels_E == 1], minlength=NUM_CLASSES)
    return summarize(ap_K, GROUPS, positives_K, none)


def test_a_replicate_is_scikit_learn_with_sample_weights() -> None:
    entries = judged(0)
    keys_E, order_E = bootstrap._sorted(entries)
    images, image_E = np.unique(entries.image_ids_E, return_inverse=True)
    curves = bootstrap._Curves.of(keys_E, image_E[order_E], NUM_CLASSES)
    for seed in range(3):
        drawn_N = np.random.default_rng(seed).integers(0, 3, len(images))
        found, _ = curves.drawn(drawn_N)
        for k in range(NUM_CLASSES):
            mine = entries.class_ids_E == k
            expected = average_precision_score(
                entries.labels_E[mine],
                entries.scores_E[mine],
                sample_weight=drawn_N[image_E[mine]],
            )
            assert found[k] == pytest.approx(expected, abs=1e-9)


def test_classes_of_a_replicate_weigh_what_was_drawn_of_them() -> None:
    # Two images, a class each, of AP 1 and 1/2: drawn are both, or one of them twice.
    entries = Judged(
        scores_E=np.array([1, 1, 2], np.float32),
        labels_E=np.array([1, 1, 0], np.int8),
        class_ids_E=np.array([0, 1, 1]),
        image_ids_E=np.array([0, 1, 1]),
    )
    weighted_R = bootstrap.resample(entries, np.array([1, 2]), replicates=40)[:, -1]
    assert set(weighted_R) == {0.5, 0.75, 1.0}


def test_replicates_do_not_depend_on_the_order_of_entries() -> None:
    entries = judged(1)
    shuffled = np.random.default_rng(5).permutation(len(entries.labels_E))
    other = Judged(**{name: values[shuffled] for name, values in vars(entries).items()})
    first = bootstrap.resample(entries, GROUPS, replicates=5)
    assert first.tobytes() == bootstrap.resample(other, GROUPS, replicates=5).tobytes()
    assert (first != bootstrap.resample(entries, GROUPS, replicates=5, seed=1)).any()


def test_interval_holds_the_estimate_and_shrinks_with_data() -> None:
    widths = []
    for images in (200, 3200):
        entries = judged(2, size=8 * images, images=images)
        means = bootstrap.resample(entries, GROUPS, replicates=100)
        found = bootstrap.intervals(summary_of(entries), means)
        assert list(found) == list(bootstrap.MEANS)
        estimate = summary_of(entries).map_all
        assert found["all"].low < estimate < found["all"].high
        assert found["all"].high - found["all"].low < found["group_1"].high - found["group_1"].low
        weighted = summary_of(entries).map_weighted
        assert found["weighted"].low < weighted < found["weighted"].high
        widths.append(found["all"].high - found["all"].low)
    # Sixteen times the data, about a quarter of the width.
    assert 2.5 < widths[0] / widths[1] < 6.5


def test_a_class_without_drawn_positive_is_left_out_and_rules_hold() -> None:
    # Class 0 has one positive; class 1 none, so it stays 0 in every replicate; class 2 nothing.
    size = 40
    entries = Judged(
        scores_E=np.arange(size, dtype=np.float32),
        labels_E=(np.arange(size) == size - 2).astype(np.int8),
        class_ids_E=np.arange(size) % 2,
        image_ids_E=np.arange(size),
    )
    groups = np.array([1, 2, 3, 4, 5])
    means = bootstrap.resample(entries, groups, replicates=60)
    first = means[:, 0]
    assert np.isnan(first).any()
    assert (first[~np.isnan(first)] == 1.0).all()
    assert (means[:, 1] == 0).all()
    assert np.isnan(means[:, 2]).all()
    strict = bootstrap.resample(entries, groups, rule="csl", replicates=5)
    assert np.isnan(strict[:, 1]).all()


def test_entries_without_image_or_label_are_refused() -> None:
    entries = judged(3, size=10)
    with pytest.raises(InputError, match="without label"):
        dataclasses.replace(entries, labels_E=np.full(10, -1, np.int8))
    with pytest.raises(InputError, match="number of images"):
        dataclasses.replace(entries, image_ids_E=np.arange(9))
