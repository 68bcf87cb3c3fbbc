"""Read any folder of images with a CSV of `image,labels`, and perhaps `negatives` and `split`.

Classes in a cell stand between separators. A class that a row does not name is absent (a complete
table), unless the table has a column of negatives: then it is unobserved, as in Open Images.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from sharding.errors import InputError
from sharding.importers.collection import Collection, Part, class_key, first_existing
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.layout import is_below
from sharding.openimages.row_status import is_mid

_SEPARATORS = {"pipe": "|", "semicolon": ";", "comma": ",", "space": " ", "tab": "\t"}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_MOST_ENTRIES = 4 << 30
_FIX = "mend the row, or leave out --strict to set such rows aside"

_Cells = dict[str, str | None]
"""Cells by column; None is the value of missing ones, and the key of those too many."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row: image path, split (None where unknown), and classes named present and absent."""

    name: str
    split: str | None
    positives: Sequence[str]
    negatives: Sequence[str]


def read_table(options: ImportOptions) -> Collection:
    """Read the CSV; see `sharding.importers.collection.Reader`."""
    source = options.source
    fix = "name the file with --table"
    path = first_existing([options.table or source / "labels.csv"], "the table", fix)
    log = ReadLog(source, strict=options.strict)
    rows, header = _read_rows(path, options, log)
    if options.classes is None:
        names = tuple(sorted({name for row in rows for name in (*row.positives, *row.negatives)}))
    else:
        names = _read_class_list(options.classes, log)
    if not names:
        raise InputError("no row names a class", file=path, fix="check --labels-column")
    unlisted = options.unlisted or (
        "unobserved" if options.negatives_column in header else "negative"
    )
    state = NEGATIVE if unlisted == "negative" else UNOBSERVED
    by_split = {split: [row for row in rows if row.split == split] for split in _SPLITS.values()}
    return Collection(
        release="csv",
        # A name that is a MID stays what it is: such a table fits other dumps of Open Images.
        keys=tuple(n if is_mid(n.encode()) else class_key("csv", n) for n in names),
        class_names=names,
        images=source,
        parts={s: _part(s, part, names, state, path, log) for s, part in by_split.items() if part},
        sources=log.sources,
        policy={"unlisted": unlisted},
        unsplit=options.split_column not in header,
    )


def _read_rows(
    path: Path, options: ImportOptions, log: ReadLog
) -> tuple[list[_Row], Sequence[str]]:
    """Read the table: (rows, header)."""
    table = csv.DictReader(io.StringIO(log.text(path), newline=""))
    header = list(table.fieldnames or [])
    for column in (options.image_column, options.labels_column):
        if column not in header:
            raise InputError(
                f"there is no column {column!r}; present: {', '.join(header)[:200]}",
                file=path,
                row=1,
                fix="name it with --image-column or --labels-column",
            )
    rows: list[_Row] = []
    line_of: dict[str, int] = {}
    for cells in _cells(table, path):
        row = _parse(cells, options, header)
        problem = _problem(row, cells, options, header, line_of)
        if problem:
            split = row.split or "train"
            log.reject(split, path, table.line_num, problem, fix=_FIX, image=row.name)
            continue
        line_of[row.name] = table.line_num
        rows.append(row)
    if not rows:
        raise InputError("no row can be used", file=path, fix="check the table and its separator")
    return rows, header


def _cells(table: csv.DictReader[str], path: Path) -> Iterator[_Cells]:
    try:
        yield from table
    except csv.Error as error:
        raise InputError(
            f"not a CSV ({error})", file=path, row=table.line_num, fix="save it as UTF-8 CSV"
        ) from None


def _parse(cells: _Cells, options: ImportOptions, header: Sequence[str]) -> _Row:
    name = (cells.get(options.image_column) or "").strip().replace("\\", "/")
    split: str | None = "train"
    if options.split_column in header:
        word = (cells.get(options.split_column) or "").strip().lower()
        split = _SPLITS.get(re.sub(r"[-_]?\d{4}$", "", word))
    return _Row(
        name=PurePosixPath(name).as_posix() if name else "",
        split=split,
        positives=_names(cells.get(options.labels_column), options.separator),
        negatives=_names(cells.get(options.negatives_column), options.separator),
    )


def _names(cell: str | None, separator: str) -> list[str]:
    """List the distinct class names of a cell."""
    names = (name.strip() for name in (cell or "").split(_SEPARATORS.get(separator, separator)))
    return list(dict.fromkeys(name for name in names if name))


def _problem(
    row: _Row,
    cells: _Cells,
    options: ImportOptions,
    header: Sequence[str],
    line_of: Mapping[str, int],
) -> str:
    """Describe what is wrong with a row; empty where nothing is."""
    if None in cells or len(cells) != len(header) or None in cells.values():
        return "another number of cells than the header has"
    if not is_below(row.name):
        return f"not a path below the source: {row.name[:80]!r}"
    if row.name in line_of:
        return f"listed before, on row {line_of[row.name]}: {row.name[:80]!r}"
    if row.split is None:
        return f"unknown split: {cells[options.split_column]!r:.80}"
    if both := set(row.positives) & set(row.negatives):
        return f"present and absent at once: {min(both)!r:.80}"
    return ""


def _read_class_list(path: Path, log: ReadLog) -> tuple[str, ...]:
    names = tuple(line for line in log.lines(path) if line)
    repeated = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if not names or repeated is not None:
        problem = "the class list is empty" if not names else f"{repeated!r} is there twice"
        raise InputError(problem, file=path, fix="give one class a line, each once")
    return names


def _part(
    split: str, rows: Sequence[_Row], names: Sequence[str], state: int, path: Path, log: ReadLog
) -> Part:
    """Build a part; ``state`` is that of classes that a row does not name."""
    if len(rows) * len(names) > _MOST_ENTRIES:
        raise InputError(
            f"{len(rows):,} images with {len(names):,} classes are too many for one table",
            file=path,
            fix="give a shorter list with --classes",
        )
    index_of = {name: index for index, name in enumerate(names)}
    labels_NK = np.full((len(rows), len(names)), state, np.int8)
    for labels_K, row in zip(labels_NK, rows, strict=True):
        for words, value in ((row.negatives, NEGATIVE), (row.positives, POSITIVE)):
            indices = [index_of[word] for word in words if word in index_of]
            labels_K[indices] = value
            log.count(split, "outside_the_class_list", len(words) - len(indices))
    return log.part(split, [row.name for row in rows], labels_NK)
