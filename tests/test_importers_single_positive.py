"""Generated single-positive labels and splits equal the reference's, entry by entry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sharding.importers.single_positive import observe, split


@pytest.mark.shared
@pytest.mark.parametrize(("positives", "negatives"), [(1, 0), (1, 1), (2, 3), (-1, 0)])
def test_labels_equal_the_reference(shared: Path, positives: int, negatives: int) -> None:
    d = np.load(shared / "golden" / "spml_label_gen.npz")
    theirs_NK = d[f"obs_pos{positives}_neg{negatives}"]  # 0 unobserved, -1 negative
    expected_NK = np.select([theirs_NK == 1, theirs_NK == -1], [1, 0], -1)
    np.testing.assert_array_equal(observe(d["full_labels"], positives, negatives), expected_NK)


@pytest.mark.shared
def test_split_equals_the_reference(shared: Path) -> None:
    d = np.load(shared / "golden" / "spml_label_gen.npz")
    train, validation = split(60)
    np.testing.assert_array_equal(train, d["train_idx"])
    np.testing.assert_array_equal(validation, d["val_idx"])


def test_one_positive_is_kept_and_nothing_invented() -> None:
    complete_NK = np.random.RandomState(0).randint(0, 2, (50, 6)).astype(np.int8)
    observed_NK = observe(complete_NK, 1)
    np.testing.assert_array_equal((observed_NK == 1).sum(1), complete_NK.max(1))
    assert (complete_NK[observed_NK == 1] == 1).all()
    assert not (observed_NK == 0).any()
