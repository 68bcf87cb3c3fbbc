"""Tabulate a study: means over seeds, paired differences to the baseline, runs without scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.study.plan import Cell, Plan, PlannedRun
from pipeline.study.results import OFF, Record
from pipeline.study.rows import Row
from pipeline.study.statistics import Estimate, estimate, holm
from pipeline.tables import MAP_COLUMNS

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table: estimates by name of the mean (`pipeline.tables.MAP_COLUMNS`).

    Attributes:
        row: what the line is of.
        means: of mAP, as fractions.
        differences: to the baseline on the same seeds and draws; empty for the baseline itself.
        adjusted: Holm's p-values of the differences, over the lines of the table; lines of the same
            scores, as rows that share a training are without BoostLU, are one comparison.
        runs: how many trainings the row has.
        values: mAP of each run (seeds, draws), as fractions; NaN where it has no scores. A row
            whose draws are one training, such as one of full labels, has one column.
    """

    row: Row
    means: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    adjusted: Mapping[str, float]
    runs: int
    values: Mapping[str, Values]


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A run of which there are no scores, and why."""

    run: str
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StudyTable:
    """All numbers of a study.

    Attributes:
        own: each row at its own slope of inference, compared with the baseline.
        off: the same without BoostLU at inference; rows that have none are equal to ``own``.
        gains: by label of a row with BoostLU at inference, what that adds to the same networks.
        lost: runs without scores.
        baseline: label of the row compared with.
        seconds: of all runs.
    """

    own: Sequence[Line]
    off: Sequence[Line]
    gains: Mapping[str, Mapping[str, Estimate]]
    lost: Sequence[Lost]
    baseline: str
    seconds: float


def tabulate(plan: Plan, records: Mapping[str, Record | None]) -> StudyTable:
    """Compute a study's numbers.

    Args:
        plan: of the study.
        records: by name of the run; None of one that has not ended.
    """
    own = {label: _means(cells, plan.draws, records, _own) for label, cells in plan.cells.items()}
    off = {label: _means(cells, plan.draws, records, _off) for label, cells in plan.cells.items()}
    boosted = [label for label, cells in plan.cells.items() if cells[0].slope > OFF]
    gains = {
        label: {name: estimate(own[label][name] - off[label][name]) for name in MAP_COLUMNS}
        for label in boosted
    }
    return StudyTable(
        own=_lines(plan, own, _own),
        off=_lines(plan, off, _off),
        gains=gains,
        lost=[lost for run in plan.runs if (lost := _lost(run, records.get(run.name)))],
        baseline=plan.baseline,
        seconds=sum(record.seconds for record in records.values() if record is not None),
    )


def _own(cell: Cell) -> float:
    return cell.slope


def _off(cell: Cell) -> float:
    return OFF


def _means(
    cells: Sequence[Cell],
    draws: int,
    records: Mapping[str, Record | None],
    slope_of: Callable[[Cell], float],
) -> dict[str, Values]:
    """Collect a row's means (seeds, draws) by name; NaN where a run has no scores."""
    found = []
    for cell in cells:
        record = records.get(cell.run)
        scores = {} if record is None else record.scores.get(slope_of(cell), {})
        found.append([scores.get(name, np.nan) for name in MAP_COLUMNS])
    values = np.array(found, dtype=np.float64).reshape(-1, draws, len(MAP_COLUMNS))
    if _runs(cells) < len(cells):
        values = values[:, :1]
    return {name: values[:, :, i] for i, name in enumerate(MAP_COLUMNS)}


def _runs(cells: Sequence[Cell]) -> int:
    """Count trainings: one may stand for all draws of its seed."""
    return len({cell.run for cell in cells})


def _lines(
    plan: Plan, means: Mapping[str, Mapping[str, Values]], slope_of: Callable[[Cell], float]
) -> list[Line]:
    base = means[plan.baseline]
    differences = {
        label: {name: estimate(values[name] - base[name]) for name in MAP_COLUMNS}
        for label, values in means.items()
        if label != plan.baseline
    }
    scores = {
        label: tuple((cell.run, slope_of(cell)) for cell in cells)
        for label, cells in plan.cells.items()
    }
    adjusted = {name: _adjusted(differences, scores, name) for name in MAP_COLUMNS}
    return [
        Line(
            row=row,
            means={name: estimate(means[row.label][name]) for name in MAP_COLUMNS},
            differences=differences.get(row.label, {}),
            adjusted={
                name: p_values[row.label]
                for name, p_values in adjusted.items()
                if row.label in p_values
            },
            runs=_runs(plan.cells[row.label]),
            values=means[row.label],
        )
        for row in plan.rows
    ]


def _adjusted(
    differences: Mapping[str, Mapping[str, Estimate]],
    scores: Mapping[str, tuple[tuple[str, float], ...]],
    name: str,
) -> dict[str, float]:
    """Adjust the p-values of a column; rows of the same scores are one comparison.

    Args:
        differences: by label of the row.
        scores: which ones a row's means are of: runs and slopes of inference.
        name: of the column.
    """
    family = {scores[label]: each[name].p for label, each in differences.items()}
    adjusted = dict(zip(family, holm(list(family.values())), strict=True))
    return {label: adjusted[scores[label]] for label in differences}


def failed_trials(found: Mapping[str, Any]) -> list[Lost]:
    """List the trials of a search that failed, which a repetition of the command may mend.

    Args:
        found: what `pipeline.study.search.FILE` holds.
    """
    return [
        Lost(run=name, status=curve["status"], reason=curve["reason"])
        for name, curve in found["trials"].items()
        if curve["status"] == "failed"
    ]


def _lost(run: PlannedRun, record: Record | None) -> Lost | None:
    if record is None:
        return Lost(run=run.name, status="not run", reason="the study ended before it")
    if record.status == "finished":
        return None
    return Lost(run=run.name, status=record.status, reason=record.reason)
