"""Rows are the paper's tables, or what a user writes; a wrong one is a line with its fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.study import rows
from pipeline.study.rows import TABLES, parse, parse_row
from sharding.errors import InputError


def test_a_row_has_method_options_and_slopes() -> None:
    row = parse_row("ll-r:delta_rel=0.5,epochs=3@5/1")
    assert (row.method, row.options, row.slopes) == ("ll-r", ("delta_rel=0.5", "epochs=3"), (5, 1))
    plain = parse_row("an")
    assert (plain.options, plain.slopes) == ((), None)


def test_a_comma_within_a_value_is_of_the_value() -> None:
    assert parse_row("gr:q=0.01,1,beta=0,2,-2,-2").options == ("q=0.01,1", "beta=0,2,-2,-2")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ll-rr", "did you mean ll-r?"),
        ("ablatoin", "did you mean ablation?"),
        ("an:", "not name=value"),
        ("an:epochs", "not name=value"),
        ("an:epochs=", "not name=value"),
        ("an@5", "no slopes"),
        ("an@5/x", "no slopes"),
        ("an@0.5/1", "1 or more"),
        ("an@nan/1", "1 or more"),
    ],
)
def test_a_wrong_row_is_one_line_with_its_fix(text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        parse([text])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_ablation_has_seven_rows_beside_their_numbers() -> None:
    table = parse(["ablation"], "coco")
    assert [row.label for row in table[:3]] == ["an@1/1", "an@1/5", "an@5/5"]
    assert table[-1].published == {"COCO": 72.82}
    assert parse(["ablation"], "demo")[-1].published == {"VOC": 89.27, "COCO": 72.82}


def test_published_numbers_are_those_of_the_paper(shared: Path) -> None:
    raw = json.loads((shared / "reference/methods_targets.json").read_text())
    alphas = {tuple(row[:3]): row[3:] for row in raw["table_ablation"]["rows"]}
    for row in parse(["ablation"]):
        assert row.slopes is not None
        wanted = alphas[(*row.slopes, row.method == "ll-r")]
        assert list(row.published.values()) == wanted
    for name, table in (("single-positive", "table_spml"), ("openimages", "table_openimages_v3")):
        published = {row.label: list(row.published.values()) for row in parse([name])}
        assert published == raw[table]["rows"]


def test_every_row_of_a_table_is_a_row_that_can_be_written() -> None:
    for name, table in TABLES.items():
        for _, method, (train, infer) in table:
            assert rows.parse_row(f"{method}@{train:g}/{infer:g}").method == method, name
