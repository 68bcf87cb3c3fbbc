"""The evaluator against scikit-learn, the golden vectors and its own promises."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score

from pipeline.config.commands import Rule
from pipeline.evaluation.metrics import average_precision, summarize
from sharding.errors import InputError
from sharding.labels import UNOBSERVED

GOLDEN = ["ap_partial_noties", "ap_partial_ties"]


def reference(
    scores: np.ndarray, labels: np.ndarray, class_ids: np.ndarray, num_classes: int
) -> np.ndarray:
    """The `boostlu` rule by scikit-learn, one class at a time."""
    ap_K = np.full(num_classes, np.nan)
    for k in range(num_classes):
        mine = class_ids == k
        if mine.any():
            positive = labels[mine] == 1
            ap_K[k] = average_precision_score(positive, scores[mine]) if positive.any() else 0.0
    return ap_K


def dense_ap(scores_NK: np.ndarray, labels_NK: np.ndarray, rule: Rule) -> np.ndarray:
    """AP per class of a dense score matrix and tri-state labels."""
    rows_E, classes_E = np.nonzero(labels_NK != UNOBSERVED)
    flat = scores_NK[rows_E, classes_E], labels_NK[rows_E, classes_E], classes_E
    return average_precision(*flat, scores_NK.shape[1], rule)


def entries(
    seed: int, size: int, num_classes: int, levels: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random (scores, labels, class ids); `levels` quantises the scores, to make ties."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=size).astype(np.float32)
    if levels:
        scores = np.round(scores * levels) / np.float32(levels)
    labels = rng.integers(0, 2, size).astype(np.int8)
    return scores, labels, rng.integers(0, num_classes, size)


@pytest.mark.shared
@pytest.mark.parametrize("file", GOLDEN)
def test_golden_vectors_under_each_rule(shared: Path, file: str) -> None:
    golden = np.load(shared / "golden" / f"{file}.npz")
    ap = {rule: dense_ap(golden["scores"], golden["labels"], rule) for rule in get_args(Rule)}
    np.testing.assert_allclose(ap["boostlu"], golden["ap_bridgegap"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ap["imcl"], golden["ap_imcl"], rtol=0, atol=1e-9)
    assert 100 * np.nanmean(ap["boostlu"]) == pytest.approx(
        float(golden["map_bridgegap_openimages_pct"]), abs=1e-9
    )
    assert 100 * ap["imcl"].mean() == pytest.approx(float(golden["map_imcl_pct"]), abs=1e-9)
    # -1 marks the classes that the rule excludes.
    np.testing.assert_array_equal(np.isnan(ap["csl"]), golden["ap_csl"] == -1)
    if file == "ap_partial_noties":  # with ties the reference depends on the order of rows
        counted = golden["ap_csl"] != -1
        np.testing.assert_allclose(ap["csl"][counted], golden["ap_csl"][counted], rtol=1e-7)
        assert 100 * np.nanmean(ap["csl"]) == pytest.approx(float(golden["map_csl_pct"]), abs=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("file", GOLDEN)
def test_the_default_rule_is_sklearns_where_sklearn_has_a_value(shared: Path, file: str) -> None:
    golden = np.load(shared / "golden" / f"{file}.npz")
    ap_K = dense_ap(golden["scores"], golden["labels"], "boostlu")
    defined_K = ~np.isnan(golden["ap_sklearn"])
    np.testing.assert_allclose(ap_K[defined_K], golden["ap_sklearn"][defined_K], rtol=0, atol=1e-9)
    compact = golden["aps_bridgegap_openimages_compact"]
    np.testing.assert_allclose(ap_K[~np.isnan(ap_K)], compact, rtol=0, atol=1e-9)


@pytest.mark.shared
@pytest.mark.parametrize("file", GOLDEN)
def test_classes_are_skipped_for_the_reasons_of_the_reference(shared: Path, file: str) -> None:
    golden = np.load(shared / "golden" / f"{file}.npz")
    labels_NK = golden["labels"]
    observed_K, positives_K = (labels_NK >= 0).sum(0), (labels_NK == 1).sum(0)
    np.testing.assert_array_equal(observed_K, golden["n_observed"])
    np.testing.assert_array_equal(positives_K, golden["n_pos"])
    no_labels, no_negatives, no_positives = golden["csl_counts_nolabels_noneg_nopos"]
    seen_K = observed_K > 0
    assert (~seen_K).sum() == no_labels
    assert (seen_K & (positives_K == observed_K)).sum() == no_negatives
    assert (seen_K & (positives_K == 0)).sum() == no_positives
    skipped_K = np.isnan(dense_ap(golden["scores"], labels_NK, "csl"))
    assert skipped_K.sum() == no_labels + no_negatives + no_positives


@settings(max_examples=150, deadline=None)
@given(data=st.data(), wide=st.booleans(), size=st.integers(0, 60))
def test_equals_scikit_learn_with_ties(data: st.DataObject, wide: bool, size: int) -> None:
    width = 64 if wide else 32
    few = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1e-45, -1e-45, 60.0, -60.0, 1e30])
    any_float = st.floats(allow_nan=False, allow_infinity=False, width=width)
    scores = data.draw(hnp.arrays(f"f{width // 8}", size, elements=few | any_float))
    labels = data.draw(hnp.arrays(np.int8, size, elements=st.integers(0, 1)))
    class_ids = data.draw(hnp.arrays(np.uint16, size, elements=st.integers(0, 4)))
    found = average_precision(scores, labels, class_ids, 6)
    expected = reference(scores, labels, class_ids, 6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("levels", [None, 4, 256])
def test_equals_scikit_learn_over_many_blocks(levels: int | None) -> None:
    scores, labels, class_ids = entries(0, 200_000, 90, levels)
    # One class owns half of all entries, the last classes own none.
    class_ids = np.where(np.arange(len(class_ids)) % 2 == 0, 7, class_ids)
    found = average_precision(scores, labels, class_ids, 95)
    np.testing.assert_allclose(found, reference(scores, labels, class_ids, 95), rtol=0, atol=1e-9)


@pytest.mark.parametrize("levels", [None, 3])
def test_order_and_number_of_ranks_do_not_matter_to_the_last_bit(levels: int | None) -> None:
    scores, labels, class_ids = entries(1, 5000, 40, levels)
    expected = average_precision(scores, labels, class_ids, 40)
    for ranks in (1, 2, 3, 8):
        order = np.concatenate([np.arange(rank, 5000, ranks) for rank in range(ranks)])
        found = average_precision(scores[order], labels[order], class_ids[order], 40)
        assert found.tobytes() == expected.tobytes()


def test_float64_scores_keep_differences_below_float32() -> None:
    scores = np.array([1.0, 1.0 + 1e-12])
    labels = np.array([1, 0], np.int8)
    assert average_precision(scores, labels, np.zeros(2, int), 1)[0] == 0.5
    tied = average_precision(scores[::-1].astype(np.float32), labels, np.zeros(2, int), 1)[0]
    assert tied == 0.5
    assert average_precision(scores[::-1], labels, np.zeros(2, int), 1)[0] == 1.0


def test_rules_differ_exactly_on_degenerate_classes() -> None:
    # Class 0 has no positive, 1 no negative, 2 nothing, 3 both.
    scores = np.array([0.1, 0.2, 0.9, 0.3, 0.4], np.float32)
    labels = np.array([0, 1, 1, 1, 0], np.int8)
    class_ids = np.array([0, 1, 1, 3, 3])
    expected = {
        "boostlu": [0, 1, np.nan, 0.5],
        "imcl": [0, 1, 0, 0.5],
        "csl": [np.nan, np.nan, np.nan, 0.5],
    }
    for rule, values in expected.items():
        np.testing.assert_array_equal(average_precision(scores, labels, class_ids, 4, rule), values)


def test_unobserved_entries_are_dropped() -> None:
    scores, labels, class_ids = entries(2, 300, 5, None)
    hidden = np.arange(300) % 3 == 0
    np.testing.assert_array_equal(
        average_precision(scores, np.where(hidden, -1, labels), class_ids, 5),
        average_precision(scores[~hidden], labels[~hidden], class_ids[~hidden], 5),
    )


def test_more_than_255_positives_of_int8_labels_do_not_wrap() -> None:
    scores = np.arange(1000, dtype=np.float32)
    assert average_precision(scores, np.ones(1000, np.int8), np.zeros(1000, int), 1)[0] == 1.0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"scores": np.array([1, np.nan, 0], np.float32)}, "1 of 3 scores are NaN"),
        ({"scores": np.array([1, 0], np.float32)}, "shapes differ"),
        ({"labels": np.array([1, 0, 2], np.int8)}, "labels range from 0 to 2"),
        ({"labels": np.array([1, 0, -2], np.int8)}, "labels range from -2 to 1"),
        ({"labels": np.array([1.0, 0, 0])}, "labels are float64, not integers"),
        ({"class_ids": np.array([0, 1, 2])}, "class ids range from 0 to 2"),
        ({"class_ids": np.array([0, 2**31, 1])}, "class ids range from 0 to 2147483648"),
        ({"class_ids": np.array([0, -1, 1])}, "class ids range from -1 to 1"),
        ({"rule": "coco"}, "no rule 'coco'"),
    ],
)
def test_bad_input_is_refused_in_one_line(change: dict[str, object], problem: str) -> None:
    good = {
        "scores": np.array([1, 2, 3], np.float32),
        "labels": np.array([1, 0, 1], np.int8),
        "class_ids": np.array([0, 0, 1]),
        "num_classes": 2,
        "rule": "boostlu",
    }
    with pytest.raises(InputError, match=problem) as caught:
        average_precision(**(good | change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert "Fix:" in str(caught.value)


def test_empty_input_counts_nothing() -> None:
    nothing = np.empty(0, np.float32), np.empty(0, np.int8), np.empty(0, np.int64)
    assert np.isnan(average_precision(*nothing, 3)).all()
    assert (average_precision(*nothing, 3, "imcl") == 0).all()


def test_summary_means_over_counted_classes_and_of_groups() -> None:
    ap_K = np.array([0.2, 0.4, np.nan, 0.6, np.nan, 1.0])
    groups_K = np.array([1, 1, 2, 3, 4, 5])
    positives_K = np.array([1, 1, 0, 2, 0, 4])
    found = summarize(ap_K, groups_K, positives_K, np.full(6, 3), rule="csl")
    assert found.rule == "csl"
    assert found.map_all == pytest.approx(2.2 / 4)
    assert found.map_groups[1] == pytest.approx(0.3)
    assert math.isnan(found.map_groups[2])
    assert found.map_of_groups == pytest.approx((0.3 + 0.6 + 1.0) / 3)
    assert found.map_weighted == pytest.approx((0.2 + 0.4 + 1.2 + 4) / 8)
    assert found.counted == {1: 2, 2: 0, 3: 1, 4: 0, 5: 1}
    assert found.counted_all == 4
    assert found.positives == {1: 2, 2: 0, 3: 2, 4: 0, 5: 4}
    assert found.negatives == {1: 6, 2: 3, 3: 3, 4: 3, 5: 3}


def test_summary_of_no_class_is_nan_and_counts_zero() -> None:
    none = np.zeros(5, int)
    found = summarize(np.full(5, np.nan), np.arange(1, 6), none, none)
    assert math.isnan(found.map_all)
    assert math.isnan(found.map_of_groups)
    assert math.isnan(found.map_weighted)
    assert found.counted_all == 0


def test_summary_refuses_columns_of_other_classes() -> None:
    with pytest.raises(InputError, match="same classes"):
        summarize(np.zeros(3), np.array([1, 2, 6]), np.zeros(3, int), np.zeros(3, int))


@pytest.mark.shared
def test_weighted_mean_equals_the_reference(shared: Path) -> None:
    golden = np.load(shared / "golden" / "ap_partial_noties.npz")
    ap_K = dense_ap(golden["scores"], golden["labels"], "csl")
    positives_K = golden["n_pos"]
    negatives_K = golden["n_observed"] - positives_K
    found = summarize(ap_K, np.ones(14, int), positives_K, negatives_K, rule="csl")
    expected = float(golden["map_csl_macro_weighted_pct"])
    assert 100 * found.map_weighted == pytest.approx(expected, abs=1e-5)


def test_metric_names_are_slash_grouped_and_valid_for_mlflow() -> None:
    ap_K = np.linspace(0, 1, 5)
    found = summarize(ap_K, np.arange(1, 6), np.ones(5, int), np.ones(5, int)).as_metrics("val")
    assert {f"val/mAP/group_{group}" for group in range(1, 6)} < set(found)
    assert found["val/mAP/all"] == found["val/mAP/mean_of_groups"] == 0.5
    assert found["val/classes_evaluated/group_5"] == 1
    assert found["val/classes_evaluated/all"] == 5
    for name in found:
        assert all(part and part.replace("_", "a").isalnum() for part in name.split("/"))
