"""What the golden vectors of the evaluator hold beside the rules: sklearn's own, and the counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.metrics import average_precision_dense

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("file", ["ap_partial_noties", "ap_partial_ties"])
def test_the_default_rule_is_sklearns_where_sklearn_has_a_value(shared: Path, file: str) -> None:
    golden = np.load(shared / "golden" / f"{file}.npz")
    ap_K = average_precision_dense(golden["scores"], golden["labels"], "boostlu")
    defined_K = ~np.isnan(golden["ap_sklearn"])
    np.testing.assert_allclose(ap_K[defined_K], golden["ap_sklearn"][defined_K], rtol=0, atol=1e-9)
    compact = golden["aps_bridgegap_openimages_compact"]
    np.testing.assert_allclose(ap_K[~np.isnan(ap_K)], compact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("file", ["ap_partial_noties", "ap_partial_ties"])
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
    skipped_K = np.isnan(average_precision_dense(golden["scores"], labels_NK, "csl"))
    assert skipped_K.sum() == no_labels + no_negatives + no_positives
