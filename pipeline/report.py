"""Summaries as people and programs read them: terminal, Markdown, JSON, a table per class."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.bootstrap import Interval
from pipeline.metrics import RULES, Summary
from pipeline.significance import Difference
from pipeline.targets import Published
from sharding.atomic import replacing
from sharding.classes import NUM_GROUPS, ClassTable

GROUPS = range(1, NUM_GROUPS + 1)
HEADERS = (*(f"Group {group}" for group in GROUPS), "All", "Mean of groups")
Intervals = Mapping[str, Mapping[str, Interval]]
_NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Sections of (name, cells) rows under `HEADERS`, and the lines that explain them."""

    sections: Sequence[Sequence[tuple[str, Sequence[str]]]]
    notes: Sequence[str]


def terminal_table(
    summaries: Mapping[str, Summary],
    *,
    intervals: Intervals | None = None,
    published: Sequence[Published] = (),
) -> str:
    """A fixed-width table: a row per summary (mAP in percent), then what stands behind it.

    Two summaries are followed by the row of their difference, second minus first. `intervals`
    (`bootstrap.intervals` per summary name) adds half their widths, `published` rows of papers.
    """
    return _fixed_width(_table(summaries, intervals or {}, published))


def markdown_table(
    summaries: Mapping[str, Summary],
    *,
    intervals: Intervals | None = None,
    published: Sequence[Published] = (),
) -> str:
    """The same table in Markdown."""
    return _markdown(_table(summaries, intervals or {}, published))


def difference_table(differences: Mapping[str, Difference], first: str, second: str) -> str:
    """Second run minus first in points of mAP, with interval and p-value, for the terminal."""
    found = list(differences.values())
    rows = [
        ("difference", [_signed(d.delta) for d in found]),
        ("95% low", [_signed(d.interval.low) for d in found]),
        ("95% high", [_signed(d.interval.high) for d in found]),
        ("p", [_p_value(d.p_value) for d in found]),
    ]
    return _fixed_width(
        _Table(sections=[rows], notes=[f"Points of mAP: {second} minus {first}; p two-sided."])
    )


def _fixed_width(table: _Table) -> str:
    rows = [("", HEADERS), *(row for section in table.sections for row in section)]
    first = max(len(name) for name, _ in rows)
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(HEADERS))]

    def line(name: str, cells: Sequence[str]) -> str:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"{name.ljust(first)}  {'  '.join(padded)}".rstrip()

    ruler = "─" * (first + sum(2 + width for width in widths))
    lines = [line("", HEADERS)]
    for section in table.sections:
        lines += [ruler, *(line(name, cells) for name, cells in section)]
    return "\n".join([*lines, ruler, *table.notes])


def _markdown(table: _Table) -> str:
    rows = [row for section in table.sections for row in section]
    lines = [f"| {' | '.join(['', *HEADERS])} |", f"|---|{'---:|' * len(HEADERS)}"]
    lines += [f"| {' | '.join([name, *cells])} |" for name, cells in rows]
    return "\n".join([*lines, "", " ".join(table.notes)]) + "\n"


def as_json(
    summaries: Mapping[str, Summary], *, intervals: Intervals | None = None
) -> dict[str, Any]:
    """Everything a summary holds, ready for `json.dumps`; mAP as fractions, no class as null."""
    known = intervals or {}
    return {
        name: {
            "rule": summary.rule,
            "map_all": _or_none(summary.map_all),
            "map_of_groups": _or_none(summary.map_of_groups),
            "map_weighted": _or_none(summary.map_weighted),
            "classes_counted": summary.counted_all,
            "intervals_95": {
                column: [_or_none(interval.low), _or_none(interval.high)]
                for column, interval in known.get(name, {}).items()
            },
            "groups": {
                str(group): {
                    "map": _or_none(summary.map_groups[group]),
                    "classes_counted": summary.counted[group],
                    "positives": summary.positives[group],
                    "negatives": summary.negatives[group],
                }
                for group in GROUPS
            },
        }
        for name, summary in summaries.items()
    }


def per_class_columns(
    classes: ClassTable,
    positives_K: npt.NDArray[np.integer],
    negatives_K: npt.NDArray[np.integer],
    ap_K: npt.NDArray[np.float64],
    ap_no_boost_K: npt.NDArray[np.float64],
) -> dict[str, list[Any]]:
    """One row per class, as columns; AP is None where the rule skips the class.

    Supports are those of the evaluated split, not of training.
    """
    return {
        "index": list(range(len(classes))),
        "mid": list(classes.mids),
        "name": list(classes.names),
        "group": classes.groups_K.tolist(),
        "positives": positives_K.tolist(),
        "negatives": negatives_K.tolist(),
        "ap": [_or_none(value) for value in ap_K.tolist()],
        "ap_no_boost": [_or_none(value) for value in ap_no_boost_K.tolist()],
    }


def write_per_class(columns: Mapping[str, Sequence[Any]], path: str | os.PathLike[str]) -> None:
    """Write `per_class_columns` as Parquet, atomically."""
    types = {"ap": pa.float64(), "ap_no_boost": pa.float64(), "mid": pa.string()}
    types |= {"name": pa.string()}
    arrays = {
        name: pa.array(values, types.get(name, pa.int64())) for name, values in columns.items()
    }
    with replacing(path) as temporary:
        pq.write_table(pa.table(arrays), temporary)


def _table(
    summaries: Mapping[str, Summary], intervals: Intervals, published: Sequence[Published]
) -> _Table:
    """The rows shared by every textual form."""
    means: list[tuple[str, list[str]]] = []
    for name, summary in summaries.items():
        means.append((name, [_percent(value) for value in _values(summary)]))
        if name in intervals:
            widths = ((i.high - i.low) / 2 for i in intervals[name].values())
            means.append(("  95% interval", [_half_width(width) for width in widths]))
    if len(summaries) == 2:
        first, second = (_values(summary) for summary in summaries.values())
        means.append(("difference", [_signed(b - a) for a, b in zip(first, second, strict=True)]))
    support: list[tuple[str, list[str]]] = []
    for name, summary in _distinct_supports(summaries).items():
        suffix = f" ({name})" if name else ""
        counted = [*summary.counted.values(), summary.counted_all]
        support.append((f"classes counted{suffix}", [*map(_number, counted), ""]))
        for label, held in (("positives", summary.positives), ("negatives", summary.negatives)):
            cells = [*map(_number, held.values()), _number(sum(held.values())), ""]
            support.append((f"{label}{suffix}", cells))
    papers = [(row.method, [*(f"{value:.2f}" for value in row.values), ""]) for row in published]
    sections: list[list[tuple[str, list[str]]]] = [means, papers, support]
    return _Table(
        sections=[section for section in sections if section], notes=_notes(summaries, published)
    )


def _notes(summaries: Mapping[str, Summary], published: Sequence[Published]) -> list[str]:
    weighted = (f"{name} {_percent(s.map_weighted)}" for name, s in summaries.items())
    rules = sorted({summary.rule for summary in summaries.values()})
    return [
        "mAP in percent, over annotated entries only.",
        f"Group 1 has the fewest training annotations, group {NUM_GROUPS} the most.",
        f"Mean over classes weighted by their positives: {', '.join(weighted)}.",
        *(f"Rule {rule}: {RULES[rule]}." for rule in rules),
        *(f"Published: {source}." for source in dict.fromkeys(row.source for row in published)),
    ]


def _distinct_supports(summaries: Mapping[str, Summary]) -> dict[str, Summary]:
    """One nameless summary where all rest on the same entries (the usual case), else each."""
    behind = [(s.counted, s.positives, s.negatives) for s in summaries.values()]
    if all(other == behind[0] for other in behind):
        return {"": next(iter(summaries.values()))}
    return dict(summaries)


def _values(summary: Summary) -> list[float]:
    """Values in the order of `HEADERS`."""
    return list(summary.means().values())


def _percent(value: float) -> str:
    return _NOTHING if math.isnan(value) else f"{100 * value:.2f}"


def _signed(value: float) -> str:
    return _NOTHING if math.isnan(value) else f"{100 * value:+.2f}"


def _half_width(value: float) -> str:
    return _NOTHING if math.isnan(value) else f"±{100 * value:.2f}"


def _p_value(value: float) -> str:
    if math.isnan(value):
        return _NOTHING
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _number(value: int) -> str:
    return f"{value:,}"


def _or_none(value: float) -> float | None:
    # JSON and Parquet readers disagree about NaN; null says "not counted" to all of them.
    return None if math.isnan(value) else value
