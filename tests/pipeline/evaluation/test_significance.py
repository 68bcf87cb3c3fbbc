"""Differences between runs: found where they are, not found where they are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.evaluation.bootstrap import MEANS, compare
from pipeline.evaluation.scores import Judged
from sharding.errors import InputError

GROUPS = np.arange(20) // 4 + 1


def pair(lift: float, seed: int = 0, size: int = 4000) -> tuple[Judged, Judged]:
    """Two runs whose scores share most of their noise; the second's positives are higher."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size).astype(np.int8)
    base = rng.normal(size=size) + labels
    first = Judged(
        scores_E=(base + 0.3 * rng.normal(size=size)).astype(np.float32),
        labels_E=labels,
        class_ids_E=rng.integers(0, 20, size),
        image_ids_E=rng.integers(0, 500, size),
    )
    scores = (base + lift * labels + 0.3 * rng.normal(size=size)).astype(np.float32)
    return first, dataclasses.replace(first, scores_E=scores)


def test_a_real_difference_is_significant_and_no_difference_is_not() -> None:
    better = compare(*pair(0.4), GROUPS, replicates=150)
    assert list(better) == list(MEANS)
    assert better["all"].delta > 0
    assert better["all"].interval.low > 0
    assert better["all"].p_value < 0.02
    same = compare(*pair(0.0), GROUPS, replicates=150)
    assert same["all"].p_value > 0.05
    assert same["all"].interval.low < 0 < same["all"].interval.high


def test_a_run_against_itself_differs_by_nothing() -> None:
    first, _ = pair(0.4)
    found = compare(first, first, GROUPS, replicates=20)
    assert {d.delta for d in found.values()} == {0.0}
    assert {d.p_value for d in found.values()} == {1.0}


def test_pairing_is_by_entry_whatever_their_order() -> None:
    first, second = pair(0.4)
    order = np.random.default_rng(1).permutation(len(second.labels_E))
    shuffled = Judged(**{name: values[order] for name, values in vars(second).items()})
    expected = compare(first, second, GROUPS, replicates=20)
    assert compare(first, shuffled, GROUPS, replicates=20) == expected


def test_other_entries_are_refused() -> None:
    first, second = pair(0.4)
    relabelled = dataclasses.replace(second, labels_E=1 - second.labels_E)
    with pytest.raises(InputError, match="different entries"):
        compare(first, relabelled, GROUPS)
