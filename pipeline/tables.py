"""Tables of numbers as text: of fixed width for a terminal, and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Sections of (name, cells) rows under headers, and the lines that explain them."""

    headers: Sequence[str]
    sections: Sequence[Sequence[tuple[str, Sequence[str]]]]
    notes: Sequence[str]

    def fixed_width(self) -> str:
        """Columns aligned, sections and notes apart by rulers."""
        rows = [("", self.headers), *(row for section in self.sections for row in section)]
        first = max(len(name) for name, _ in rows)
        widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(self.headers))]

        def line(name: str, cells: Sequence[str]) -> str:
            padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            return f"{name.ljust(first)}  {'  '.join(padded)}".rstrip()

        ruler = "─" * (first + sum(2 + width for width in widths))
        lines = [line("", self.headers)]
        for section in self.sections:
            lines += [ruler, *(line(name, cells) for name, cells in section)]
        return "\n".join([*lines, ruler, *self.notes])

    def markdown(self) -> str:
        """The same, with the notes as a paragraph below."""
        rows = [row for section in self.sections for row in section]
        lines = [f"| {' | '.join(['', *self.headers])} |", f"|---|{'---:|' * len(self.headers)}"]
        lines += [f"| {' | '.join([name, *cells])} |" for name, cells in rows]
        return "\n".join([*lines, "", " ".join(self.notes)]) + "\n"


def percent(value: float) -> str:
    """12.34 for 0.1234."""
    return _NOTHING if math.isnan(value) else f"{100 * value:.2f}"


def signed(value: float) -> str:
    """+12.34 for 0.1234."""
    return _NOTHING if math.isnan(value) else f"{100 * value:+.2f}"


def half_width(low: float, high: float) -> str:
    """±1.50 for the interval from 0.1 to 0.13."""
    return _NOTHING if math.isnan(low) else f"±{100 * (high - low) / 2:.2f}"


def p_value(value: float) -> str:
    """Three decimals, or that it is smaller."""
    if math.isnan(value):
        return _NOTHING
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
