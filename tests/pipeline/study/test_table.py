"""The tables say what came out of every run, in each form the same."""

from __future__ import annotations

import csv
import io
import math
import re

import numpy as np
import pytest
from scipy import stats

from pipeline.config.study import StudyConfig
from pipeline.study import render
from pipeline.study.figure import intervals
from pipeline.study.plan import Plan, plan
from pipeline.study.results import Record, is_done
from pipeline.study.table import tabulate
from pipeline.tables import MAP_COLUMNS

SEEDS = 4


@pytest.fixture(scope="module")
def ablation() -> Plan:
    config = StudyConfig(dataset="/d", output="/o", rows=("ablation",), preset="coco", seeds=SEEDS)
    return plan(config, ("first",), "first")


@pytest.fixture(scope="module")
def records(ablation: Plan) -> dict[str, Record | None]:
    return scored(ablation)


def scored(planned: Plan) -> dict[str, Record | None]:
    """Scores of every run; without BoostLU 0.1 less."""
    rng, found = np.random.default_rng(0), dict[str, Record | None]()
    for run in planned.runs:
        scores = {}
        for slope in (1.0, *run.slopes):
            mean = 0.6 + 0.1 * (slope > 1) + 0.05 * (run.config.method == "ll-r")
            scores[slope] = {name: float(mean + rng.normal(0, 0.01)) for name in MAP_COLUMNS}
        found[run.name] = Record(
            status="finished",
            config=run.config.to_dict(),
            split="test",
            labels="first",
            scores=scores,
            epoch=3,
            seconds=10,
        )
    return found


def values(records: dict[str, Record | None], run: str, slope: float, name: str) -> list[float]:
    found = []
    for seed in range(SEEDS):
        record = records[f"{run}-seed{seed}"]
        assert record is not None
        found.append(record.scores[slope][name])
    return found


def test_rows_that_share_a_training_take_their_own_slope(
    ablation: Plan, records: dict[str, Record | None]
) -> None:
    table = tabulate(ablation, records)
    lines = {line.row.label: line for line in table.own}
    for label, run, slope in (("ll-r@5/1", "ll-r-boost5", 1), ("ll-r@5/5", "ll-r-boost5", 5)):
        for name in ("group_3", "all"):
            mean = lines[label].means[name].mean
            assert mean == pytest.approx(np.mean(values(records, run, slope, name)))


def test_differences_are_paired_by_seed(ablation: Plan, records: dict[str, Record | None]) -> None:
    table = tabulate(ablation, records)
    lines = {line.row.label: line for line in table.own}
    base = values(records, "an-boost1", 1, "all")
    reference = stats.ttest_rel(values(records, "ll-r-boost5", 5, "all"), base)
    assert lines["ll-r@5/5"].differences["all"].p == pytest.approx(reference.pvalue)
    assert lines["ll-r@5/5"].adjusted["all"] >= reference.pvalue
    assert not lines["an@1/1"].differences
    assert set(table.gains) == {"an@1/5", "an@5/5", "ll-r@1/5", "ll-r@5/5"}
    gain = np.subtract(*(values(records, "ll-r-boost5", slope, "all") for slope in (5, 1)))
    assert table.gains["ll-r@5/5"]["all"].mean == pytest.approx(gain.mean())


def test_rows_of_the_same_scores_are_one_comparison(
    ablation: Plan, records: dict[str, Record | None]
) -> None:
    """Without BoostLU the ablation's six differences are three, and one row is the baseline."""
    table = tabulate(ablation, records)
    for name in MAP_COLUMNS:
        base = values(records, "an-boost1", 1, name)
        p = {
            run: stats.ttest_rel(values(records, run, 1, name), base).pvalue
            for run in ("an-boost5", "ll-r-boost1", "ll-r-boost5")
        }
        smallest, middle, largest = sorted(p, key=lambda run: p[run])
        holm = {smallest: min(1, 3 * p[smallest])}
        holm[middle] = max(holm[smallest], min(1, 2 * p[middle]))
        holm[largest] = max(holm[middle], p[largest])
        found = {line.row.label: line.adjusted[name] for line in table.off[1:]}
        assert math.isnan(found.pop("an@1/5"))
        assert found == pytest.approx(
            {
                "an@5/5": holm["an-boost5"],
                **dict.fromkeys(("ll-r@1/1", "ll-r@1/5"), holm["ll-r-boost1"]),
                **dict.fromkeys(("ll-r@5/1", "ll-r@5/5"), holm["ll-r-boost5"]),
            }
        )


def test_a_training_that_serves_all_draws_counts_once() -> None:
    """A row of full labels knows nothing of draws: three draws of it are one training."""
    config = StudyConfig(
        dataset="/d", output="/o", rows=("full@1/1", "an@1/1"), preset="coco", seeds=1, draws=3
    )
    planned = plan(config, ("first", "complete"), "first")
    assert len(planned.runs) == 4
    scores = {run.name: 0.7 if run.draw is None else 0.5 + 0.02 * run.draw for run in planned.runs}
    table = tabulate(
        planned,
        {
            run.name: Record(
                status="finished",
                config=run.config.to_dict(),
                split="test",
                labels="complete",
                scores={1.0: dict.fromkeys(MAP_COLUMNS, scores[run.name])},
            )
            for run in planned.runs
        },
    )
    full, an = table.own
    assert (full.runs, full.means["all"].count, an.runs, an.means["all"].count) == (1, 1, 3, 3)
    assert np.isnan(full.means["all"].low)
    assert an.differences["all"].mean == pytest.approx(0.52 - 0.7)
    assert an.differences["all"].count == 3
    assert re.search(r"full@1/1 \|  1/1 \|", render.markdown(table, "S", []))


def test_no_run_is_hidden(ablation: Plan, records: dict[str, Record | None]) -> None:
    lost = dict(records)
    first, second = (run for run in ablation.runs if run.config.seed == 1 and "ll-r" in run.name)
    lost[first.name] = Record(
        status="diverged",
        config=first.config.to_dict(),
        split="test",
        labels="first",
        reason="epoch 1: the loss is nan",
    )
    lost[second.name] = None
    table = tabulate(ablation, lost)
    lines = {line.row.label: line for line in table.own}
    assert lines["ll-r@1/1"].means["all"].count == SEEDS - 1
    page = render.markdown(table, "Study", ["a fact"])
    assert f"| {first.name}" in page
    assert "epoch 1: the loss is nan" in page
    assert "not run" in page
    assert f"{SEEDS - 1}/{SEEDS}" in render.terminal(table)
    rows = list(csv.DictReader(io.StringIO(render.as_csv(ablation, lost))))
    assert [row["reason"] for row in rows if row["status"] == "diverged"] == [
        "epoch 1: the loss is nan"
    ] * 2, "of both rows that the training serves"


def test_csv_has_every_row_seed_and_mean(ablation: Plan, records: dict[str, Record | None]) -> None:
    rows = list(csv.DictReader(io.StringIO(render.as_csv(ablation, records))))
    assert len(rows) == 7 * SEEDS
    (row,) = (each for each in rows if each["row"] == "ll-r@5/5" and each["seed"] == "2")
    record = records["ll-r-boost5-seed2"]
    assert record is not None
    assert float(row["all"]) == record.scores[5]["all"]
    assert float(row["group_2_no_boost"]) == record.scores[1]["group_2"]


def test_markdown_and_latex_show_the_same_numbers(
    ablation: Plan, records: dict[str, Record | None]
) -> None:
    table = tabulate(ablation, records)
    page, latex = render.markdown(table, "Study", []), render.latex(table)
    estimate = table.own[-1].means["all"]
    mean, width = f"{100 * estimate.mean:.2f}", f"{50 * (estimate.high - estimate.low):.2f}"
    assert f"{mean} ±{width}" in page
    assert rf"{mean} $\pm${width}" in latex
    assert "72.82" in page, "of the paper"
    assert latex.count(r"\\") == 8
    heads = [line for line in page.splitlines() if line.startswith("## ")]
    assert len(heads) == 6


def test_the_terminal_has_eighty_columns(ablation: Plan, records: dict[str, Record | None]) -> None:
    shown = render.terminal(tabulate(ablation, records))
    assert max(map(len, shown.splitlines())) <= 80


def test_a_description_begins_with_the_means(
    ablation: Plan, records: dict[str, Record | None]
) -> None:
    table = tabulate(ablation, records)
    text = render.description(table, ["a fact"])
    first, fact = text.index("| an@1/1 "), text.index("- a fact")
    assert first < 400 < fact < text.index("## mAP per class group")
    found = render.metrics(table)
    assert list(found)[:2] == ["mAP/an 1/1", "mAP/an 1/5"]
    assert list(found.values()) == [line.means["all"].mean for line in table.own]
    none = tabulate(ablation, dict.fromkeys(records))
    assert render.metrics(none) == {}


def test_the_figure_has_every_row(ablation: Plan, records: dict[str, Record | None]) -> None:
    axes = intervals(tabulate(ablation, records)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ablation.cells)


def test_all_words_of_the_figure_are_on_it() -> None:
    options = ("expected_num_pos=4", "linear_epochs=1", "linear_rate=1")
    row = f"role-li:{','.join(options)}@5/5"
    config = StudyConfig(dataset="/d", output="/o", rows=(row,), preset="demo")
    planned = plan(config, ("first",), "first")
    drawn = intervals(tabulate(planned, scored(planned)))
    drawn.draw_without_rendering()
    (name,) = drawn.axes[0].get_yticklabels()
    assert name.get_text() == "role-li:expected_num_pos=4,\nlinear_epochs=1,linear_rate=1@5/5"
    label = drawn.axes[0].xaxis.label.get_window_extent()
    assert label.x0 >= 0
    assert label.x1 <= drawn.bbox.x1


def test_a_record_is_of_one_configuration_split_and_labels(
    ablation: Plan, records: dict[str, Record | None]
) -> None:
    run = ablation.runs[0]
    record = records[run.name]
    assert record is not None
    assert Record.from_dict(record.to_dict()) == record
    assert is_done(record, run, "test", "first")
    assert not is_done(record, run, "validation", "first")
    assert not is_done(record, run, "test", "second")
    assert not is_done(None, run, "test", "first")
    more = StudyConfig(
        dataset="/d", output="/o", rows=("an@1/3",), preset="coco", train=("epochs=11",)
    )
    (other, *_) = plan(more, ("first",), "first").runs
    assert other.name == run.name
    assert not is_done(record, other, "test", "first"), "another epoch, another slope"
