"""Write a study's table as text for the terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.study.plan import Plan
from pipeline.study.results import Record
from pipeline.study.search import Curve
from pipeline.study.statistics import Estimate
from pipeline.study.table import Line, StudyTable
from pipeline.tables import MAP_COLUMNS, Table, csv_of, half_width, p_value, percent, signed

_ALL = "all"
_NOT_ALLOWED = re.compile(r"[^\w\-.:/]")  # in the name of a metric
_RUN_COLUMNS = ("run", "row", "seed", "draw", "alpha_infer", "status", "reason", "seconds", "epoch")


def terminal(table: StudyTable) -> str:
    """Write the means over all classes, and the runs without scores."""
    return "\n\n".join(each.terminal() for each in [_summary(table), *_lost(table)])


def markdown(
    table: StudyTable, title: str, facts: Sequence[str], trials: Table | None = None
) -> str:
    """Write every table.

    Args:
        table: the study's numbers.
        title: of the page.
        facts: lines that say how the numbers came about.
        trials: of the search, if there was one; see `searched`.
    """
    parts = [f"# {title}", "\n".join(f"- {fact}" for fact in facts)]
    for heading, each in _sections(table, trials):
        parts += [f"## {heading}", each.markdown()]
    return "\n\n".join(parts) + "\n"


def description(table: StudyTable, facts: Sequence[str], trials: Table | None = None) -> str:
    """Write every table, the means over all classes first: MLflow shows the begin of it."""
    (_, first), *rest = _sections(table, trials)
    parts = [first.markdown(), "\n".join(f"- {fact}" for fact in facts)]
    return "\n\n".join([*parts, *(f"## {heading}\n\n{each.markdown()}" for heading, each in rest)])


def metrics(table: StudyTable) -> dict[str, float]:
    """List the mean of every row over all classes, under names that MLflow allows."""
    means = {line.row.label: line.means[_ALL].mean for line in table.own}
    return {
        f"mAP/{_NOT_ALLOWED.sub(' ', label)}": mean
        for label, mean in means.items()
        if not math.isnan(mean)
    }


def searched(found: Mapping[str, Any]) -> Table:
    """Tabulate every trial of a search, also those that were stopped, diverged or failed.

    Args:
        found: what `search.FILE` holds.
    """
    curves = {name: Curve.from_dict(raw) for name, raw in found["trials"].items()}
    rows = []
    for name, curve in sorted(curves.items(), key=lambda item: -item[1].best):
        best = max(curve.scores, key=curve.scores.__getitem__, default=None)
        rows.append(
            [
                name,
                found["rows"][name],
                f"{curve.status}: {curve.reason}" if curve.reason else curve.status,
                "" if best is None else percent(curve.scores[best]),
                "" if best is None else str(best),
                str(len(curve.scores)),
            ]
        )
    headers = ["trial", "row", "ended", "mAP", "of epoch", "epochs"]
    note = f"mAP on validation of the best epoch, seed 0. Searched: {' '.join(found['space'])}."
    return Table(headers=headers, sections=[rows], notes=[note], text_columns=3)


def _sections(table: StudyTable, trials: Table | None) -> list[tuple[str, Table]]:
    sections = [
        ("All classes", _summary(table)),
        ("mAP per class group", _per_group(table.own)),
        (f"Difference to {table.baseline} per class group", _differences(table.own)),
    ]
    if table.gains:
        sections += [
            ("BoostLU off at inference: mAP per class group", _per_group(table.off)),
            (
                f"BoostLU off: difference to {table.baseline} per class group",
                _differences(table.off),
            ),
            ("What BoostLU adds at inference", _gains(table)),
        ]
    sections += [("Runs without scores", each) for each in _lost(table)]
    return sections if trials is None else [*sections, ("Trials of the search", trials)]


def _summary(table: StudyTable) -> Table:
    """A row per method: mean over all classes, difference, adjusted p, what the paper has."""
    papers = _papers(table.own)
    rows = []
    for line in table.own:
        mean = line.means[_ALL]
        rows.append(
            [
                line.row.label,
                f"{mean.count}/{line.runs}",
                _with_interval(mean, percent),
                *_difference(line, _ALL),
                *(_number(line.row.published.get(name)) for name in papers),
            ]
        )
    headers = ["", "runs", "mAP", "difference", "p", *(f"paper, {name}" for name in papers)]
    notes = [
        "mAP in percent over all classes, mean over runs with the half width of its 95 % interval.",
        f"Differences to {table.baseline} are of the same seeds and draws; "
        "p is of the paired t-test, adjusted by Holm over the rows.",
    ]
    return Table(headers=headers, sections=[rows], notes=notes)


def _papers(lines: Sequence[Line]) -> list[str]:
    names = dict.fromkeys(name for line in lines for name in line.row.published)
    return [name for name in names if not name.startswith("Group")]


def _per_group(lines: Sequence[Line]) -> Table:
    ours = [
        [line.row.label, *(_with_interval(line.means[name], percent) for name in MAP_COLUMNS)]
        for line in lines
    ]
    papers = [
        [
            f"{line.row.label}, paper",
            *(_number(line.row.published.get(header)) for header in MAP_COLUMNS.values()),
        ]
        for line in lines
        if any(header in line.row.published for header in MAP_COLUMNS.values())
    ]
    sections = [rows for rows in (ours, papers) if rows]
    return Table(headers=["", *MAP_COLUMNS.values()], sections=sections)


def _differences(lines: Sequence[Line]) -> Table:
    """A row of differences with intervals for each method, and below it the adjusted p-values."""
    rows = []
    for line in lines:
        if line.differences:
            cells = [_difference(line, name) for name in MAP_COLUMNS]
            rows += [[line.row.label, *(cell for cell, _ in cells)], ["p", *(p for _, p in cells)]]
    return Table(headers=["", *MAP_COLUMNS.values()], sections=[rows])


def _gains(table: StudyTable) -> Table:
    rows = [
        [label, *(_with_interval(gains[name], signed) for name in MAP_COLUMNS)]
        for label, gains in table.gains.items()
    ]
    note = "The same networks with BoostLU at inference minus without; points of mAP."
    return Table(headers=["", *MAP_COLUMNS.values()], sections=[rows], notes=[note])


def _lost(table: StudyTable) -> list[Table]:
    rows = [[lost.run, lost.status, lost.reason] for lost in table.lost]
    headers = ["run without scores", "status", "reason"]
    return [Table(headers=headers, sections=[rows], text_columns=3)] if rows else []


def _difference(line: Line, name: str) -> tuple[str, str]:
    if not line.differences:
        return "", ""
    return _with_interval(line.differences[name], signed), p_value(line.adjusted[name])


def _with_interval(of: Estimate, text: object) -> str:
    value = text(of.mean)  # type: ignore[operator]
    return value if math.isnan(of.low) else f"{value} {half_width(of.low, of.high)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def latex(table: StudyTable) -> str:
    """Write the means per group and over all classes as a tabular of booktabs."""
    headers = ["Method", *MAP_COLUMNS.values(), "Difference", "$p$"]
    lines = [
        rf"% mAP (\%), mean and half width of the 95 % interval; differences to {table.baseline}",
        r"\begin{tabular}{l" + "r" * (len(headers) - 1) + "}",
        r"\toprule",
        " & ".join(headers) + r" \\",
        r"\midrule",
    ]
    for line in table.own:
        cells = [_with_interval(line.means[name], percent) for name in MAP_COLUMNS]
        row = [line.row.label, *cells, *_difference(line, _ALL)]
        lines.append(" & ".join(map(_escaped, row)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    for sign, by in (("_", r"\_"), ("%", r"\%"), ("±", r"$\pm$"), ("–", "--"), ("<", "$<$")):
        text = text.replace(sign, by)
    return text


def as_csv(plan: Plan, records: Mapping[str, Record | None]) -> str:
    """Write a line per row, seed and draw: every mean as a fraction, or why there is none."""
    runs = {run.name: run for run in plan.runs}
    rows: list[list[object]] = []
    for label, cells in plan.cells.items():
        for index, cell in enumerate(cells):
            record, draw = records.get(cell.run), runs[cell.run].draw
            seed, number = divmod(index, plan.draws)
            if draw is None and plan.draws > 1:  # one run serves all draws
                draw = number
            about = [cell.run, label, seed, "" if draw is None else draw, f"{cell.slope:g}"]
            if record is None:
                about += ["not run", "", "", ""]
                scores: Mapping[float, Mapping[str, float]] = {}
            else:
                about += [record.status, record.reason, round(record.seconds), record.epoch]
                scores = record.scores
            means = [
                scores.get(slope, {}).get(name, "")
                for slope in (cell.slope, 1.0)
                for name in MAP_COLUMNS
            ]
            rows.append([*about, *means])
    header = [*_RUN_COLUMNS, *MAP_COLUMNS, *(f"{name}_no_boost" for name in MAP_COLUMNS)]
    return csv_of(header, rows)
