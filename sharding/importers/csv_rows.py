"""Read the rows of a CSV of images and labels.

Its delimiter is a comma, semicolon or tab, whichever makes the two columns that it must have.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from sharding import log
from sharding.errors import InputError
from sharding.importers.collection import is_text
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.layout import is_below
from sharding.sources.spelling import normal

SEPARATORS = {"pipe": "|", "semicolon": ";", "comma": ",", "space": " ", "tab": "\t"}
"""Characters between classes, by their words on the command line."""
_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LONGEST_CELL = 16_000_000
"""Most characters of a cell; csv's own limit is 131,072, which a few thousand classes exceed."""
_LONG_FIX = "close a quote of this row, or name the classes of its image on several rows"
_QUOTE_FIX = "close the quote of this row; write a quote within a quoted cell twice"
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_NO_SET = ("set()", "frozenset()")
_ITEM = re.compile(rf"{_QUOTED}|[-+]?[.\d][-+.e\d]*")
_ITEMS = re.compile(rf"(?:(?:{_ITEM.pattern})(?:\s*,\s*|\s+|\Z))*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # or a drive of Windows
_WHOLE = re.compile(r"-?\d+")
# NumPy indents the further lines of an array.
_ARRAY = re.compile(r"(\w+\()?[\[{][^\r\n]*(?:\r?\n[ \t][^\r\n]*)*(?(1)\)|[\]}])")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold what a row says about an image.

    Attributes:
        line: where it begins in the file; the header is line 1.
        name: path of the image.
        split: of the image; None where unknown.
        positives: classes named as present.
        negatives: classes named as absent.
        written: those of them that cells name between separators, not in a printed list.
        problem: why it cannot be used; empty where it can.
    """

    line: int
    name: str
    split: str | None
    positives: Sequence[str]
    negatives: Sequence[str]
    written: Sequence[str]
    problem: str = ""


def read_rows(
    path: Path, options: ImportOptions, account: ReadLog
) -> tuple[Iterator[Row], Sequence[str]]:
    """Read a table: its rows in their order, and the header, which has columns as options do.

    Raises:
        InputError: a column is missing or there twice; while rows are read, a quote is not closed.
    """
    csv.field_size_limit(_LONGEST_CELL)  # of the process: a reader has none of its own
    text = account.text(path)
    delimiter, header = _header(text, path, options)
    return _rows(text, delimiter, header, path, options), header


def _rows(
    text: str, delimiter: str, header: Sequence[str], path: Path, options: ImportOptions
) -> Iterator[Row]:
    source = options.source
    folders = [folder.as_posix() for folder in (source.absolute(), source.resolve())]
    for line, cells, problem in _records(text, delimiter, path):
        if line == 1:
            continue
        values = dict(zip(header, cells, strict=False))
        row = _parse(values, line, options, header, folders)
        _refuse_lines(row, values, cells, path, options)
        problem = problem or _problem(row, cells, header) or _problem_within(row, values, options)
        yield replace(row, problem=problem)


def _header(text: str, path: Path, options: ImportOptions) -> tuple[str, list[str]]:
    """Find the delimiter and the names of the columns, without empty ones at the end."""
    needed = (options.image_column, options.labels_column)
    read = (*needed, options.negatives_column, options.split_column)
    found: dict[str, list[str]] = {}
    for delimiter in ",;\t":
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            found[delimiter] = _in_case_of(read, [cell.strip() for cell in next(rows, [])])
        except csv.Error:
            found[delimiter] = []
    delimiter = next((d for d, names in found.items() if set(needed) <= set(names)), ",")
    header = found[delimiter]
    while header and not header[-1]:
        header.pop()
    for column in read:
        if column in needed and column not in header:
            if header and header[0].startswith(("[", "{")):
                fix = "write it as a CSV with one row per image"
                raise InputError("this is JSON, not a CSV", file=path, row=1, fix=fix)
            present = " ".join(", ".join(header).split())
            problem = f"there is no column {column!r}; present: {present[:200]}"
        elif header.count(column) > 1:
            problem = f"there are two columns {column!r}"
        else:
            continue
        is_needed = column in needed
        fix = "name it with --image-column or --labels-column" if is_needed else "rename one"
        raise InputError(problem, file=path, row=1, fix=fix)
    if others := [name for name in header if name and name not in read]:
        log.info(f"note: columns that are not read: {', '.join(others)[:200]!r}")
    return delimiter, header


def _in_case_of(columns: Sequence[str], header: Sequence[str]) -> list[str]:
    """Write the names of a header as the columns that are read, where they differ in case alone.

    A column that is there as it is written is that one, and no other.
    """
    lacking = {column.casefold(): column for column in columns if column not in header}
    return [n if n in columns else lacking.get(n.casefold(), n) for n in header]


def _records(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str], str]]:
    """Yield the first line, the cells and the problem of each record that is not empty."""
    physical = ""
    lines = (physical := each for each in io.StringIO(text, newline=""))
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line, problem = rows.line_num + 1, ""
        try:
            cells = next(rows, None)
        except csv.Error as error:
            is_long = "field larger" in str(error)
            long = f"a cell of more than {_LONGEST_CELL:,} characters"
            problem = long if is_long else f"not a CSV ({error})"
            cells = _cells(physical, delimiter) if rows.line_num == line else None
            if cells is None:
                fix = _LONG_FIX if is_long else _QUOTE_FIX
                raise InputError(problem, file=path, row=line, fix=fix) from None
        if cells is None:
            return
        if cells:
            yield line, cells, problem


def _cells(line: str, delimiter: str) -> list[str] | None:
    """Read a line with a quote within a cell; None where it does not end with the line."""
    with contextlib.suppress(csv.Error):
        cells = next(csv.reader([line], delimiter=delimiter))
        return None if re.search(r"[\r\n]", "".join(cells)) else cells
    return None


def _parse(
    cells: Mapping[str, str],
    line: int,
    options: ImportOptions,
    header: Sequence[str],
    folders: Sequence[str],
) -> Row:
    name = normal(cells.get(options.image_column, ""))
    split: str | None = "train"
    if options.split_column in header:
        word = cells.get(options.split_column, "").strip().lower()
        split = _SPLIT_OF.get(re.sub(r"[-_]?\d{4}$", "", word))
    stated = [cells.get(c, "").strip() for c in (options.labels_column, options.negatives_column)]
    positives, negatives = (_names(cell, options.separator) for cell in stated)
    pairs = zip(stated, (positives, negatives), strict=True)
    return Row(
        line=line,
        name=_relative(PurePosixPath(name), folders) if name else "",
        split=split,
        positives=positives,
        negatives=negatives,
        written=[name for cell, names in pairs if _items(cell) is None for name in names],
    )


def _relative(path: PurePosixPath, folders: Sequence[str]) -> str:
    """Write an absolute path below the source, of which both forms are given, relative to it."""
    inside = (path.relative_to(each) for each in folders if path.is_relative_to(each))
    return next(inside, path).as_posix()


def _names(cell: str, separator: str) -> list[str]:
    """List the distinct class names of a cell: a printed list, or names between separators."""
    items = _items(cell)
    if items is not None:
        names = [_item(text) for text in items]
    else:
        names = [name.strip() for name in cell.split(SEPARATORS.get(separator, separator))]
    return list(dict.fromkeys(name for name in names if name))


def _items(cell: str) -> list[str] | None:
    """Split a list as Python, NumPy and JSON print it; None where the cell is none."""
    if cell in _NO_SET:
        return []
    body = cell[1:-1].strip()
    if len(cell) < 2 or _BRACKETS.get(cell[0]) != cell[-1] or not _ITEMS.fullmatch(body):
        return None
    # Python prints tuples with a comma, even those of one item: "(1)" is a name.
    is_name = cell[0] == "(" and body and not re.search("[,'\"]", body)
    return None if is_name else _ITEM.findall(body)


def _is_unreadable(cell: str) -> bool:
    """Test for a printed list of other things than names or whole numbers, or one cut short."""
    items = _items(cell)
    if items is None:
        is_call = re.match(r"\w+\([\[{]", cell)  # array([...])
        is_list = cell[:1] + cell[-1:] in ("[]", "{}") and re.search("[,'\"]", cell)
        return bool(is_call or is_list)
    are_names = all(item[0] in "'\"" for item in items)
    return not (are_names or all(map(_WHOLE.fullmatch, items)))


def _item(text: str) -> str:
    """Read an item of a list that JSON or Python printed."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return str(read(text)).strip()
    return text


def _refuse_lines(
    row: Row,
    values: Mapping[str, str],
    cells: Sequence[str],
    path: Path,
    options: ImportOptions,
) -> None:
    """Refuse a record of which a cell that is read holds other rows; a printed array does not."""
    read = [row.name]
    for column, names in (
        (options.labels_column, row.positives),
        (options.negatives_column, row.negatives),
    ):
        if not _ARRAY.fullmatch(values.get(column, "").strip()):
            read += names
    if any(re.search(r"[\r\n]", value) for value in read):
        raise InputError(
            f"this row ends {sum(map(_count_lines, cells))} lines below: a quote is not closed",
            file=path,
            row=row.line,
            fix=_QUOTE_FIX,
        )


def _count_lines(cell: str) -> int:
    return len(re.findall(r"\r\n|\r|\n", cell))


def _problem(row: Row, cells: Sequence[str], header: Sequence[str]) -> str:
    """Describe what is wrong with a row; empty where nothing is."""
    if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
        return "another number of cells than the header has"
    if not is_below(row.name) or _URL.match(row.name):
        return f"not a path below the source: {row.name[:80]!r}"
    return ""


def _problem_within(row: Row, values: Mapping[str, str], options: ImportOptions) -> str:
    """Describe what is wrong with the content of a row; empty where nothing is."""
    if row.split is None:
        return f"unknown split: {values[options.split_column]!r:.80}"
    if both := set(row.positives) & set(row.negatives):
        return f"present and absent at once: {min(both)!r:.80}"
    if bad := [name for name in (*row.positives, *row.negatives) if not is_text(name)]:
        return f"not the text of a class: {bad[0][:80]!a}"
    for column in (options.labels_column, options.negatives_column):
        cell = values.get(column, "").strip()
        if _is_unreadable(cell):
            return f"like a list, but none of quoted names: {cell[:80]!r}"
    return ""
