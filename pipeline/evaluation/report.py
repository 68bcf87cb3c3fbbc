"""Report an evaluation's result as tables for the terminal, Markdown, JSON and MLflow metrics.

One `Report` holds all of it; every form says the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation.bootstrap import DIFFERENCE, Difference, Interval
from pipeline.evaluation.metrics import RULES, WEIGHTED, Summary
from pipeline.evaluation.per_class import none_for_nan
from pipeline.evaluation.references import Published
from pipeline.evaluation.scores import BOOST_OFF, BOOST_ON
from pipeline.tables import MAP_COLUMNS, Table, half_width, p_value, percent, signed
from sharding.classes import NUM_GROUPS
from sharding.log import count

GROUPS = range(1, NUM_GROUPS + 1)
HEADERS = ("", *MAP_COLUMNS.values())
_NO_INTERVAL = "Interval –: every draw of the images has the same mean; it says nothing of others."


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs on the same entries: ``second`` minus ``first``, by name of the mean."""

    first: str
    second: str
    differences: Mapping[str, Difference]


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """The means of an evaluation and what they are compared with.

    Attributes:
        summaries: by name, of the same entries; the tables add the difference of two of them,
            second minus first.
        intervals: `bootstrap.intervals` by name of summary, and of `DIFFERENCE`, where they were
            computed.
        published: the papers' rows, below ours.
        comparison: with another evaluation.
        pointing_game: share of maps that point into a box, by group and over all.
        grouped_by: what the class groups were cut by, as of `pipeline.data.profile.grouped_by`.
    """

    summaries: Mapping[str, Summary]
    intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    published: Sequence[Published] = ()
    comparison: Comparison | None = None
    pointing_game: Mapping[str, float] = field(default_factory=dict)
    grouped_by: str = "training annotations"

    def terminal(self) -> str:
        """Write tables of fixed width: a row per summary (mAP in percent), then its supports."""
        return "\n\n".join(table.terminal() for table in self._tables())

    def markdown(self) -> str:
        """Write the same tables in Markdown."""
        return "\n\n".join(table.markdown() for table in self._tables()) + "\n"

    __repr__, _repr_markdown_ = terminal, markdown  # in a notebook

    def as_json(self) -> dict[str, Any]:
        """Convert to plain values in full precision: fractions, no value as null."""
        raw: dict[str, Any] = {name: self._summary_as_json(name) for name in self.summaries}
        if found := self.intervals.get(DIFFERENCE):
            off, on = (self.summaries[name].means() for name in (BOOST_OFF, BOOST_ON))
            raw["on_minus_off"] = {
                name: {
                    "delta": none_for_nan(on[name] - off[name]),
                    "interval_95": _as_pair(found[name]),
                }
                for name in found
            }
        if self.published:
            raw["published"] = [
                {"method": row.method, "percent": list(row.values), "source": row.source}
                for row in self.published
            ]
        if self.comparison:
            raw["difference"] = {
                "first": self.comparison.first,
                "second": self.comparison.second,
                "means": {
                    name: {
                        "delta": none_for_nan(difference.delta),
                        "interval_95": _as_pair(difference.interval),
                        "p": none_for_nan(difference.p_value),
                    }
                    for name, difference in self.comparison.differences.items()
                },
            }
        if self.pointing_game:
            raw["pointing_game"] = dict(self.pointing_game)
        return raw

    def metrics(self, prefix: str) -> dict[str, float]:
        """List flat metrics for MLflow: ``<prefix>/mAP/...``, ``<prefix>_no_boost/mAP/...``.

        The latter are without BoostLU. Means may be NaN.
        """
        boosted = self.summaries[BOOST_ON].as_metrics(prefix)
        raw = self.summaries[BOOST_OFF].as_metrics(f"{prefix}_no_boost")
        # BoostLU changes no count: the same charts twice would only be in the way.
        return boosted | {key: value for key, value in raw.items() if "/mAP/" in key}

    def _summary_as_json(self, name: str) -> dict[str, Any]:
        summary, intervals = self.summaries[name], self.intervals.get(name, {})
        return {
            "rule": summary.rule,
            "map_all": none_for_nan(summary.map_all),
            "map_of_groups": none_for_nan(summary.map_of_groups),
            "map_weighted": none_for_nan(summary.map_weighted),
            "classes_counted": summary.counted_all,
            "intervals_95": {column: _as_pair(interval) for column, interval in intervals.items()},
            "groups": {
                str(group): {
                    "map": none_for_nan(summary.map_groups[group]),
                    "classes_counted": summary.counted[group],
                    "positives": summary.positives[group],
                    "negatives": summary.negatives[group],
                }
                for group in GROUPS
            },
        }

    def _tables(self) -> list[Table]:
        """The rows shared by every textual form."""
        papers = [
            [row.method, *(f"{value:.2f}" for value in row.values), ""] for row in self.published
        ]
        sections = [rows for rows in (self._means(), papers, self._supports()) if rows]
        main = Table(headers=HEADERS, sections=sections, notes=self._notes())
        return [main, _difference_table(self.comparison)] if self.comparison else [main]

    def _means(self) -> list[list[str]]:
        rows = []
        for name, summary in self.summaries.items():
            means = summary.means()
            rows.append([name, *(percent(means[column]) for column in MAP_COLUMNS)])
            rows += self._widths(name)
        if len(self.summaries) == 2:
            first, second = (summary.means() for summary in self.summaries.values())
            rows.append([DIFFERENCE, *(signed(second[c] - first[c]) for c in MAP_COLUMNS)])
            rows += self._widths(DIFFERENCE)
        return rows

    def _widths(self, name: str) -> list[list[str]]:
        """A row of half widths, where intervals of this name are known."""
        known = self.intervals.get(name)
        if not known:
            return []
        widths = (half_width(known[column].low, known[column].high) for column in MAP_COLUMNS)
        return [["  95% interval", *widths]]

    def _lacks_interval(self, name: str) -> bool:
        """Whether a mean of this name, or a difference, that is shown has no interval."""
        shown = self.summaries.values() if name == DIFFERENCE else [self.summaries[name]]
        return any(
            math.isnan(self.intervals[name][column].low)
            and not any(math.isnan(summary.means()[column]) for summary in shown)
            for column in MAP_COLUMNS
        )

    def _supports(self) -> list[list[str]]:
        """The entries behind the means; all summaries are of the same."""
        summary = next(iter(self.summaries.values()))
        positives, negatives = summary.positives.values(), summary.negatives.values()
        rows = {
            "classes counted": [*summary.counted.values(), summary.counted_all],
            "positives": [*positives, sum(positives)],
            "negatives": [*negatives, sum(negatives)],
        }
        return [[name, *(f"{count:,}" for count in counts), ""] for name, counts in rows.items()]

    def _notes(self) -> list[str]:
        weighted = ", ".join(f"{name} {self._weighted(name)}" for name in self.summaries)
        rules = sorted({summary.rule for summary in self.summaries.values()})
        sources = dict.fromkeys(row.source for row in self.published)
        counted = next(iter(self.summaries.values()))
        notes = [
            "mAP in percent, over annotated entries only.",
            f"{counted.counted_all:,} of {count(counted.classes, 'class')} counted, "
            f"{counted.without_positive:,} of them without positive (AP 0): see --rule.",
            f"Group 1 has the fewest {self.grouped_by}, group {NUM_GROUPS} the most.",
            "All is the mean over classes, Groups the mean of the group means.",
            f"Weighted by positives: {weighted}.",
            *(f"Rule {rule}: {RULES[rule]}." for rule in rules),
            *(f"Published: {source}." for source in sources),
        ]
        if any(map(self._lacks_interval, self.intervals)):
            notes.append(_NO_INTERVAL)
        if self.pointing_game:
            hits = percent(self.pointing_game["all"])
            notes.append(
                f"Maps that point into a box (pointing game): {hits} %, mean over classes."
            )
        return notes

    def _weighted(self, name: str) -> str:
        value = percent(self.summaries[name].map_weighted)
        known = self.intervals.get(name, {}).get(WEIGHTED)
        return f"{value} {half_width(known.low, known.high)}" if known else value


def _difference_table(comparison: Comparison) -> Table:
    """Second run minus first in points of mAP, with interval and p-value."""
    differences = [comparison.differences[column] for column in MAP_COLUMNS]
    rows = [
        ["difference", *(signed(d.delta) for d in differences)],
        ["95% low", *(signed(d.interval.low) for d in differences)],
        ["95% high", *(signed(d.interval.high) for d in differences)],
        ["p", *(p_value(d.p_value) for d in differences)],
    ]
    notes = [f"Points of mAP: {comparison.second} minus {comparison.first}; p two-sided."]
    if weighted := comparison.differences.get(WEIGHTED):
        low, high = signed(weighted.interval.low), signed(weighted.interval.high)
        p = p_value(weighted.p_value)
        notes.append(f"Weighted by positives: {signed(weighted.delta)} ({low} to {high}), p {p}.")
    if any(math.isnan(d.interval.low) and not math.isnan(d.delta) for d in differences):
        notes.append(_NO_INTERVAL)
    return Table(headers=HEADERS, sections=[rows], notes=notes)


def _as_pair(interval: Interval) -> list[float | None]:
    return [none_for_nan(interval.low), none_for_nan(interval.high)]
