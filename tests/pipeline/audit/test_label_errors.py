"""Label errors: losses by hand, confident learning's bounds, several networks, held-out labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.audit import label_errors
from pipeline.audit.label_errors import Opinion
from sharding.labels import LabelTable


def opinion(*rows: tuple[int, int, int, float]) -> Opinion:
    """Of (image, class, label, logit)."""
    images, classes, labels, logits = (np.array(column) for column in zip(*rows, strict=True))
    return Opinion(
        image_ids_E=images.astype(np.uint64),
        classes_E=classes,
        labels_E=labels.astype(np.int8),
        logits_E=logits.astype(np.float32),
    )


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


ROWS = [
    *((image, 0, 1, logit(p)) for image, p in enumerate((0.9, 0.8, 0.1))),
    *((image, 0, 0, logit(p)) for image, p in enumerate((0.2, 0.3, 0.97), start=3)),
]


def test_the_bounds_are_those_of_confident_learning() -> None:
    # Mean probability of "present" where people said so: 0.6; of "absent": (0.8+0.7+0.03)/3 = 0.51.
    # Image 2, called present, is absent with 0.9; image 5, called absent, is present with 0.97.
    assert label_errors.contradicts(opinion(*ROWS), 1).tolist() == [False, False, True] * 2


def test_the_largest_loss_comes_first() -> None:
    found = label_errors.find([opinion(*ROWS)], 1)
    assert found.image_ids_N.tolist() == [5, 2]
    assert found.labels_N.tolist() == [0, 1]
    assert found.losses_N == pytest.approx([-math.log(0.03), -math.log(0.1)], rel=1e-5)
    assert found.probabilities_N == pytest.approx([0.97, 0.1], rel=1e-5)
    assert found.judged == 6
    assert found.first(1).image_ids_N.tolist() == [5]
    assert found.first(1).judged == 6


def test_all_networks_have_to_agree_and_their_probabilities_are_averaged() -> None:
    other = [row if row[0] != 5 else (5, 0, 0, logit(0.1)) for row in ROWS]
    other = [row if row[0] != 2 else (2, 0, 1, logit(0.15)) for row in other]
    found = label_errors.find([opinion(*ROWS), opinion(*reversed(other))], 1)
    assert found.image_ids_N.tolist() == [2]
    assert found.probabilities_N == pytest.approx([0.125], rel=1e-5)
    assert found.losses_N == pytest.approx([-math.log(0.125)], rel=1e-5)
    assert found.networks_N.tolist() == [2]


def test_a_class_with_one_state_takes_the_other_bound_of_all_classes() -> None:
    rows = [*ROWS, (9, 1, 1, logit(0.2)), (8, 1, 1, logit(0.6))]
    # "Absent" is 0.51 probable on average: 0.8 passes that, and present is less than its 0.4.
    assert label_errors.contradicts(opinion(*rows), 2)[6:].tolist() == [True, False]
    alone = opinion((9, 0, 1, logit(0.2)), (8, 0, 1, logit(0.6)))
    assert label_errors.contradicts(alone, 1).tolist() == [True, False]


def test_a_logit_of_any_size_has_a_finite_loss() -> None:
    found = label_errors.find([opinion((1, 0, 1, -2000.0), (2, 0, 0, -5.0))], 1)
    assert np.isfinite(found.losses_N).all()
    assert found.image_ids_N.tolist() == [1]


def test_labels_that_a_network_trained_on_are_left_out() -> None:
    trained = LabelTable.from_lists([f"{1:016x}", f"{2:016x}"], [[0], [3]], [[1], []])
    said = opinion((1, 0, 1, 0), (1, 1, 1, 0), (1, 3, 0, 0), (2, 0, 0, 0), (7, 0, 0, 0))
    kept = said.held_out(trained)
    pairs = zip(kept.image_ids_E.tolist(), kept.classes_E.tolist(), strict=True)
    assert list(pairs) == [(1, 3), (2, 0), (7, 0)]
