"""The published numbers are copied right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluation import references
from pipeline.methods import registry


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
    assert [row.method for row in references.published("curriculum")] == ["Curriculum Labeling"]
    assert [row.method for row in references.published("iu")] == ["Naive IU"]
    assert [row.method for row in references.published("wan")] == ["WAN"]
    assert [row.method for row in references.published("ls")] == ["LSAN"]
    assert references.published("P-ASL")[0].source == references.PAPER
    assert references.published("em") == ()


def test_every_published_row_is_of_a_method_and_no_method_is_forgotten() -> None:
    by_method = {name: references.published(name) for name in registry.names()}
    found = {row for rows in by_method.values() for row in rows}
    later = references.OPEN_IMAGES_V3
    assert {*later.values()} <= found
    # Rows that both papers have are shown from the later one.
    both = {name: name for name in later} | {"Curriculum": "Curriculum Labeling"}
    for name, row in references.LARGE_LOSS_OPEN_IMAGES_V3.items():
        assert (later[both[name]] if name in both else row) in found
    without = {name for name, rows in by_method.items() if not rows}
    assert without == {
        *("full", "epr", "asl", "hill", "splc", "role", "role-li"),
        *("em", "em-apl", "vlpl", "gr"),
    }, "neither paper trains these on Open Images"
    assert references._BY_METHOD.keys() == by_method.keys() - without
