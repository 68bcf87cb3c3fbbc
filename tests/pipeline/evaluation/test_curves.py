"""Mean precision-recall curves hold the area they claim."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation import figures, ranking
from pipeline.evaluation.metrics import average_precision, summarize
from pipeline.evaluation.scores import Judged

GROUPS = np.array([1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 1])


def judged() -> Judged:
    """Ten classes with ties, and an eleventh of negatives only."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000).astype(np.int8)
    class_ids = rng.integers(0, 11, 4000)
    labels[class_ids == 10] = 0
    scores = np.round(4 * (rng.normal(size=4000) + labels)) / 4
    return Judged(
        scores_E=scores.astype(np.float32),
        labels_E=labels,
        class_ids_E=class_ids,
        image_ids_E=np.arange(4000),
    )


def test_area_under_a_group_curve_is_its_map() -> None:
    entries = judged()
    ap_K = average_precision(entries.scores_E, entries.labels_E, entries.class_ids_E, 11)
    none = np.zeros(11, int)
    summary = summarize(ap_K, GROUPS, none, none)
    found = figures.by_group(entries, GROUPS)
    for group, value in summary.map_groups.items():
        assert found[f"Group {group}"].mean() == pytest.approx(value, abs=2e-3)
    assert found["All"].mean() == pytest.approx(summary.map_all, abs=2e-3)


def test_precision_at_recall_by_hand() -> None:
    # Descending: +, -, +, + with the last two tied to a negative.
    scores = np.array([4, 3, 2, 2, 2], np.float32)
    labels = np.array([1, 0, 1, 1, 0], np.int8)
    keys = ranking.sorted_keys(scores, labels, np.zeros(5, np.int64))
    levels = np.array([0.01, 1 / 3, 0.34, 2 / 3, 1.0])
    found = ranking.precision_at_recall(keys, 2, levels)
    np.testing.assert_allclose(found[0], [1, 1, 3 / 5, 3 / 5, 3 / 5])
    assert np.isnan(found[1]).all()
