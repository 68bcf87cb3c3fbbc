"""The published numbers are copied right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluation import references


@pytest.mark.shared
@pytest.mark.parametrize(
    ("ours", "key"),
    [
        (references.OPEN_IMAGES_V3, "table_openimages_v3"),
        (references.LARGE_LOSS_OPEN_IMAGES_V3, "extra_large_loss_paper_openimages"),
    ],
)
def test_rows_equal_the_reference(
    shared: Path, ours: dict[str, references.Published], key: str
) -> None:
    rows = json.loads((shared / "reference" / "methods_targets.json").read_text())[key]["rows"]
    assert {name: list(row.values) for name, row in ours.items()} == rows


def test_rows_are_found_by_the_name_of_a_method() -> None:
    assert [row.method for row in references.published("ll_r")] == ["LL-R", "LL-R+BoostLU"]
    assert [row.method for row in references.published("LL-Cp")] == ["LL-Cp", "LL-Cp+BoostLU"]
    assert [row.method for row in references.published("an")] == ["Naive AN"]
    assert references.published("P-ASL")[0].source == references.PAPER
    assert references.published("em") == ()
