"""Write tables as text (aligned for a terminal, Markdown, CSV), and format their numbers."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sharding.classes import NUM_GROUPS

MAP_COLUMNS = {
    **{f"group_{group}": f"Group {group}" for group in range(1, NUM_GROUPS + 1)},
    "all": "All",
    "mean_of_groups": "Groups",
}
"""Headers of the columns of a table of mAP, by name of the mean."""
_NOTHING, _SPACE = "–", "&emsp;"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a spreadsheet's formulas begin
_TERMINAL_COLUMNS = 80
_NARROWEST = 32  # of a column that is wrapped


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells under headers, in sections, and the notes that explain them.

    Attributes:
        headers: one per column; "" above row names.
        sections: rows of cells, each as long as the headers.
        notes: sentences below the table.
        text_columns: how many of the first columns are aligned to the left, as text; the rest are
            aligned to the right, as numbers.
    """

    headers: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    notes: Sequence[str] = ()
    text_columns: int = 1

    def terminal(self) -> str:
        """Align the columns; draw rulers between sections, and wrap the notes below.

        Where all columns are text, the last is wrapped, too.
        """
        rows = [self._wrapped("  ".join(cells[:-1]), cells[-1]) for cells in self._padded()]
        longest = max(len(line) for row in rows for line in row.split("\n"))
        ruler = "─" * min(longest, _TERMINAL_COLUMNS)
        lines = [rows.pop(0)]
        for section in self.sections:
            lines += [ruler, *(rows.pop(0) for _ in section)]
        notes = [line for note in self.notes for line in textwrap.wrap(note, _TERMINAL_COLUMNS)]
        return "\n".join([*lines, *([ruler, *notes] if notes else [])])

    def markdown(self) -> str:
        """Align the columns of a Markdown table, with the notes as a paragraph below."""
        header, *rows = [f"| {' | '.join(cells)} |" for cells in self._padded()]
        dashes = ["-" * (len(cell) + 1) for cell in self._padded()[0]]
        ends = ["-" if i < self.text_columns else ":" for i in range(len(dashes))]
        ruler = f"|{'|'.join(map(''.join, zip(dashes, ends, strict=True)))}|"
        paragraph = ["", " ".join(self.notes)] if self.notes else []
        return "\n".join([header, ruler, *rows, *paragraph])

    def _wrapped(self, start: str, last: str) -> str:
        """Put the last cell beside the others, or on lines below where little room is left."""
        line = f"{start}  {last}".rstrip() if start else last.rstrip()
        if len(line) <= _TERMINAL_COLUMNS or self.text_columns < len(self.headers):
            return line
        room = _TERMINAL_COLUMNS - len(start) - 2
        if room < _NARROWEST:
            return "\n    ".join([start.rstrip(), *textwrap.wrap(last, _TERMINAL_COLUMNS - 4)])
        return f"{start}  " + f"\n{'':{len(start) + 2}}".join(textwrap.wrap(last, room))

    def _padded(self) -> list[list[str]]:
        """The header's and every row's cells, padded to their columns' widths."""
        rows = [self.headers, *(row for section in self.sections for row in section)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            [
                cell.ljust(width) if i < self.text_columns else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            for row in rows
        ]


def spaced(markdown: str) -> str:
    """Put space between the columns of a text's tables, where MLflow's pages set none."""
    rows = re.compile(r"^\| .*\|$", re.MULTILINE)
    return rows.sub(lambda row: re.sub(r"\| (?=.)", f"| {_SPACE}", row[0]), markdown)


def csv_of(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Compose a CSV file of which a spreadsheet takes no cell for a formula.

    Text that would be one, such as a class name of "=1+1", gets an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    with contextlib.suppress(ValueError):  # a number with its sign
        float(cell)
        return cell
    return f"'{cell}"


def percent(value: float, decimals: int = 2) -> str:
    """Format 0.1234 as 12.34."""
    return _NOTHING if math.isnan(value) else f"{100 * value:.{decimals}f}"


def signed(value: float) -> str:
    """Format 0.1234 as +12.34."""
    return _NOTHING if math.isnan(value) else f"{100 * value:+.2f}"


def half_width(low: float, high: float) -> str:
    """Format the interval from 0.1 to 0.13 as ±1.50."""
    return _NOTHING if math.isnan(low) else f"±{100 * (high - low) / 2:.2f}"


def p_value(value: float) -> str:
    """Format a p-value with three decimals, smaller ones as <0.001."""
    if math.isnan(value):
        return _NOTHING
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
