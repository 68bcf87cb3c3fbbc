"""The textual forms of a summary."""

from __future__ import annotations

import io
import json
import math
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.evaluation import references, report
from pipeline.evaluation.bootstrap import DIFFERENCE, Difference, Interval
from pipeline.evaluation.metrics import MEANS, Summary, summarize
from pipeline.evaluation.per_class import PerClass
from pipeline.evaluation.report import Comparison, Report
from sharding.classes import ClassTable


def summary(shift: float = 0.0, rule: str = "boostlu") -> Summary:
    """Ten classes, two per group; group 3 has no counted class."""
    ap_K = np.array([0.1, 0.2, 0.3, 0.4, np.nan, np.nan, 0.7, 0.8, 0.9, 0.9]) + shift
    groups_K = np.repeat(np.arange(1, 6), 2)
    return summarize(ap_K, groups_K, np.full(10, 1200), np.full(10, 34), rule)


@pytest.fixture
def pair() -> dict[str, Summary]:
    return {"BoostLU off": summary(), "BoostLU on": summary(0.0512)}


def row(text: str, name: str) -> list[str]:
    """The cells of the line that starts with `name`."""
    line = next(line for line in text.splitlines() if line.startswith(name))
    return line.removeprefix(name).split()


def test_terminal_table_shows_means_difference_and_what_they_rest_on(
    pair: dict[str, Summary],
) -> None:
    text = Report(summaries=pair).terminal()
    assert row(text, "BoostLU off") == ["15.00", "35.00", "–", "75.00", "90.00", "53.75", "53.75"]
    assert row(text, "BoostLU on")[:3] == ["20.12", "40.12", "–"]
    assert row(text, "difference")[:3] == ["+5.12", "+5.12", "–"]
    assert row(text, "classes counted") == ["2", "2", "0", "2", "2", "8"]
    assert row(text, "positives") == ["2,400"] * 5 + ["12,000"]
    assert row(text, "negatives") == ["68"] * 5 + ["340"]
    assert "Rule boostlu: classes without annotated entry skipped" in text


def test_terminal_table_is_of_fixed_width(pair: dict[str, Summary]) -> None:
    lines = Report(summaries=pair).terminal().splitlines()
    ruler = lines[1]
    assert set(ruler) == {"─"}
    assert lines.count(ruler) == 3
    rows = lines[: lines.index("mAP in percent, over annotated entries only.")]
    assert max(map(len, rows)) == len(ruler)
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("All  Groups")
    assert not any(line != line.rstrip() for line in lines)


def test_notes_count_classes_without_positive_and_say_what_groups_follow() -> None:
    ap_K = np.array([0.1, 0.0, 0.0, np.nan, 0.5])
    positives_K, negatives_K = np.array([1, 0, 0, 0, 3]), np.array([0, 1, 1, 0, 1])
    means = summarize(ap_K, np.arange(1, 6), positives_K, negatives_K)
    text = Report(summaries={"run": means}, grouped_by="test positives").terminal()
    assert "4 of 5 classes counted, 2 of them without positive (AP 0): see --rule.\n" in text
    assert "Group 1 has the fewest test positives, group 5 the most.\n" in text


def test_one_summary_has_no_difference_and_two_rules_are_both_named() -> None:
    assert "difference" not in Report(summaries={"run": summary()}).terminal()
    text = Report(summaries={"a": summary(), "b": summary(rule="csl")}).terminal()
    assert "Rule boostlu:" in text
    assert "Rule csl:" in text


def test_markdown_has_as_many_cells_in_every_row(pair: dict[str, Summary]) -> None:
    lines = [
        line for line in Report(summaries=pair).markdown().splitlines() if line.startswith("|")
    ]
    assert {line.count("|") for line in lines} == {len(report.HEADERS) + 1}
    assert "| BoostLU off | 15.00 | 35.00 | – | 75.00 |" in re.sub(" +", " ", lines[2])


def test_json_is_strict_and_keeps_full_precision(pair: dict[str, Summary]) -> None:
    text = json.dumps(Report(summaries=pair).as_json(), allow_nan=False)
    back = json.loads(text)["BoostLU on"]
    assert back["groups"]["3"] == {
        "map": None,
        "classes_counted": 0,
        "positives": 2400,
        "negatives": 68,
    }
    assert back["map_all"] == pair["BoostLU on"].map_all
    assert back["rule"] == "boostlu"


def test_per_class_columns_round_trip_through_parquet() -> None:
    classes = ClassTable.build(
        ["/m/01", "/m/02", "/m/03", "/m/04", "/m/05"],
        ["Cat", "Trunk", "Trunk", 'Fiat 500 "topolino"', "Café"],
        np.arange(5),
        np.arange(5),
    )
    ap_K = np.array([0.5, np.nan, 1.0, 0.0, 1 / 3])
    table = PerClass(
        classes=classes,
        rule="boostlu",
        ap_no_boost_K=ap_K / 2,
        ap_K=ap_K,
        positives_K=np.arange(5),
        negatives_K=np.arange(5) * 2,
    )
    columns = table.columns()
    assert list(columns) == [
        *("index", "mid", "name", "group"),
        *("positives", "negatives", "ap", "ap_no_boost"),
    ]
    assert columns["ap"][1] is None
    back = pq.read_table(io.BytesIO(table.to_parquet())).to_pydict()
    assert back == columns
    assert back["ap"][4] == 1 / 3


def test_summary_without_any_class_still_prints() -> None:
    nothing = summarize(np.full(5, np.nan), np.arange(1, 6), np.zeros(5, int), np.zeros(5, int))
    assert math.isnan(nothing.map_all)
    assert row(Report(summaries={"run": nothing}).terminal(), "run") == ["–"] * 7


def around(value: float) -> Interval:
    return Interval(low=value - 0.01, high=value + 0.02)


def test_intervals_and_published_rows_stand_beside_the_means(pair: dict[str, Summary]) -> None:
    known = {name: around(value) for name, value in pair["BoostLU on"].means().items()}
    output = Report(
        summaries=pair, intervals={"BoostLU on": known}, published=references.published("ll_r")
    )
    text = output.terminal()
    assert row(text, "  95% interval") == ["±1.50", "±1.50", "–", *["±1.50"] * 4]
    assert text.count("95% interval") == 1
    added = {name: Interval(low=0.01, high=0.03) for name in MEANS}
    both = Report(summaries=pair, intervals={"BoostLU on": known, DIFFERENCE: added})
    assert row(both.terminal().partition("difference")[2], "  95% interval") == ["±1.00"] * 7
    delta = pair["BoostLU on"].map_all - pair["BoostLU off"].map_all
    assert both.as_json()["on_minus_off"]["all"] == {"delta": delta, "interval_95": [0.01, 0.03]}
    assert "BoostLU off 53.75, BoostLU on 58.87 ±1.50." in text
    assert row(text, "LL-R+BoostLU") == ["79.28", "80.81", "83.32", "85.63", "90.27", "83.86"]
    assert "Published: Bridging the Gap" in text
    as_json = output.as_json()
    assert as_json["BoostLU on"]["intervals_95"]["group_3"] == [None, None]
    assert as_json["BoostLU off"]["intervals_95"] == {}


def test_a_mean_that_no_draw_changes_has_no_interval_and_a_note(pair: dict[str, Summary]) -> None:
    """Group 3 has no class and so needs no word; of group 1 it says why there is no interval."""
    nothing = Interval(low=math.nan, high=math.nan)
    known = {name: around(value) for name, value in pair["BoostLU on"].means().items()}
    note = "Interval –: every draw"
    assert math.isnan(known["group_3"].low)
    assert note not in Report(summaries=pair, intervals={"BoostLU on": known}).terminal()
    for name in ("BoostLU on", DIFFERENCE):
        text = Report(summaries=pair, intervals={name: known | {"group_1": nothing}}).terminal()
        assert row(text, "  95% interval")[:3] == ["–", "±1.50", "–"]
        assert note in text
    same = Difference(delta=0.0, interval=nothing, p_value=1.0)
    comparison = Comparison(first="a", second="b", differences=dict.fromkeys(MEANS, same))
    text = Report(summaries=pair, comparison=comparison).terminal()
    assert row(text, "95% low")[0] == "–"
    assert note in text


@pytest.fixture
def compared() -> Comparison:
    nothing = Interval(low=math.nan, high=math.nan)
    found = {
        name: Difference(delta=0.0123, interval=Interval(low=-0.001, high=0.02), p_value=0.0005)
        for name in MEANS
    } | {"group_2": Difference(delta=math.nan, interval=nothing, p_value=math.nan)}
    return Comparison(first="AN", second="LL-R", differences=found)


def test_difference_table_names_the_runs_and_bounds_p(compared: Comparison) -> None:
    text = Report(summaries={"run": summary()}, comparison=compared).terminal()
    assert row(text, "difference")[:3] == ["+1.23", "–", "+1.23"]
    assert row(text, "95% low")[0] == "-0.10"
    assert row(text, "p ")[:2] == ["<0.001", "–"]
    assert "LL-R minus AN" in text
    assert "Weighted by positives: +1.23 (-0.10 to +2.00), p <0.001." in text


def test_every_form_says_the_same(pair: dict[str, Summary], compared: Comparison) -> None:
    known = {name: around(value) for name, value in pair["BoostLU on"].means().items()}
    output = Report(
        summaries=pair,
        intervals=dict.fromkeys(pair, known),
        published=references.published("ll_r"),
        comparison=compared,
        pointing_game={"all": 0.5, "group_1": 0.5},
    )
    in_markdown = re.sub(r"\|-+\|[-:|]+|\|", " ", output.markdown())
    assert in_markdown.split() == output.terminal().replace("─", " ").split()
    found = json.loads(json.dumps(output.as_json(), allow_nan=False))
    for name in pair:
        assert list(found[name]["intervals_95"]) == list(MEANS)
    assert found["published"][1]["percent"] == [79.28, 80.81, 83.32, 85.63, 90.27, 83.86]
    assert (found["difference"]["first"], found["difference"]["second"]) == ("AN", "LL-R")
    assert found["difference"]["means"]["all"] == {
        "delta": 0.0123,
        "interval_95": [-0.001, 0.02],
        "p": 0.0005,
    }
    assert found["difference"]["means"]["group_2"]["p"] is None
    assert found["pointing_game"] == {"all": 0.5, "group_1": 0.5}
