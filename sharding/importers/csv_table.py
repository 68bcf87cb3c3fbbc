"""Any folder of images with a CSV of `image,labels`, and perhaps `negatives` and `split`.

Classes in a cell stand between separators. What a row does not name is absent (a complete table),
unless the table has a column of negatives: then it is unobserved, as in Open Images.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from sharding.errors import InputError
from sharding.importers.collection import Collection, Part, class_key, existing
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.openimages.row_status import is_mid

_SEPARATORS = {"pipe": "|", "semicolon": ";", "comma": ",", "space": " ", "tab": "\t"}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_MOST_ENTRIES = 4 << 30


@dataclass
class _Rows:
    """What the rows of one split say: image paths, and the classes named present and absent."""

    names: list[str] = field(default_factory=list)
    positives: list[list[str]] = field(default_factory=list)
    negatives: list[list[str]] = field(default_factory=list)


def read_table(options: ImportOptions) -> Collection:
    """Read the CSV; see `sharding.importers.collection.Reader`."""
    source = options.source
    fix = "name the file with --table"
    path = existing([options.table or source / "labels.csv"], "the table", fix)
    account = ReadLog(source, strict=options.strict)
    rows, header = _read(path, options, account)
    listed = None if options.classes is None else _class_list(options.classes, account)
    words = {
        word for part in rows.values() for row in part.positives + part.negatives for word in row
    }
    names = listed or tuple(sorted(words))
    if not names:
        raise InputError("no row names a class", file=path, fix="check --labels-column")
    unlisted = options.unlisted or (
        "unobserved" if options.negatives_column in header else "negative"
    )
    state = NEGATIVE if unlisted == "negative" else UNOBSERVED
    return Collection(
        release="csv",
        # A name that is a MID stays what it is: such a table fits other dumps of Open Images.
        keys=tuple(n if is_mid(n.encode()) else class_key("csv", n) for n in names),
        class_names=names,
        images=source,
        parts={s: _part(s, rows[s], names, state, path, account) for s in _in_order(rows)},
        sources=account.sources,
        policy={"unlisted": unlisted},
        unsplit=options.split_column not in header,
    )


def _in_order(rows: dict[str, _Rows]) -> list[str]:
    return [split for split in dict.fromkeys(_SPLITS.values()) if split in rows]


def _read(
    path: Path, options: ImportOptions, account: ReadLog
) -> tuple[dict[str, _Rows], list[str]]:
    """(rows by split, header)."""
    table = csv.DictReader(io.StringIO(account.text(path), newline=""))
    header = list(table.fieldnames or [])
    for column in (options.image_column, options.labels_column):
        if column not in header:
            raise InputError(
                f"there is no column {column!r}; present: {', '.join(header)[:200]}",
                file=path,
                row=1,
                fix="name it with --image-column or --labels-column",
            )
    separator = _SEPARATORS.get(options.separator, options.separator)
    has_split = options.split_column in header
    rows: dict[str, _Rows] = {}
    seen: dict[str, int] = {}
    for cells in _cells(table, path):
        line = table.line_num
        name, problem = _image(cells, options, seen, len(header))
        split = _split(cells.get(options.split_column)) if has_split else "train"
        if not problem and split is None:
            problem = f"unknown split: {cells[options.split_column]!r:.80}"
        positives = _words(cells.get(options.labels_column), separator)
        negatives = _words(cells.get(options.negatives_column), separator)
        if not problem and (both := set(positives) & set(negatives)):
            problem = f"present and absent at once: {min(both)!r:.80}"
        if problem:
            fix = "mend the row, or leave out --strict to set such rows aside"
            account.bad(split or "train", path, line, problem, fix=fix, image=name)
            continue
        seen[name] = line
        part = rows.setdefault(split or "train", _Rows())
        part.names.append(name)
        part.positives.append(positives)
        part.negatives.append(negatives)
    if not rows:
        raise InputError("no row can be used", file=path, fix="check the table and its separator")
    return rows, header


def _cells(table: csv.DictReader[str], path: Path) -> Iterator[dict[str, str | None]]:
    try:
        yield from table
    except csv.Error as error:
        raise InputError(
            f"not a CSV ({error})", file=path, row=table.line_num, fix="save it as UTF-8 CSV"
        ) from None


def _image(
    cells: dict[str, str | None], options: ImportOptions, seen: dict[str, int], width: int
) -> tuple[str, str]:
    """(image path, what is wrong with the row or "")."""
    text = (cells.get(options.image_column) or "").strip().replace("\\", "/")
    name = PurePosixPath(text).as_posix()
    if None in cells or len(cells) != width or None in cells.values():
        return name, "another number of cells than the header has"
    if not text or "\0" in text or name.startswith("/") or ".." in PurePosixPath(name).parts:
        return name, f"not a path below the source: {text[:80]!r}"
    if name in seen:
        return name, f"listed before, on row {seen[name]}: {name[:80]!r}"
    return name, ""


def _split(text: str | None) -> str | None:
    return _SPLITS.get(re.sub(r"[-_]?\d{4}$", "", (text or "").strip().lower()))


def _words(cell: str | None, separator: str) -> list[str]:
    words = (word.strip() for word in (cell or "").split(separator))
    return list(dict.fromkeys(word for word in words if word))


def _class_list(path: Path, account: ReadLog) -> tuple[str, ...]:
    names = tuple(line.strip() for line in account.lines(path) if line.strip())
    repeated = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if not names or repeated is not None:
        problem = "the class list is empty" if not names else f"{repeated!r} is there twice"
        raise InputError(problem, file=path, fix="give one class a line, each once")
    return names


def _part(
    split: str, rows: _Rows, names: Sequence[str], state: int, path: Path, account: ReadLog
) -> Part:
    if len(rows.names) * len(names) > _MOST_ENTRIES:
        raise InputError(
            f"{len(rows.names):,} images with {len(names):,} classes are too many for one table",
            file=path,
            fix="give a shorter list with --classes",
        )
    index_of = {name: index for index, name in enumerate(names)}
    labels_NK = np.full((len(rows.names), len(names)), state, np.int8)
    for words, value in ((rows.negatives, NEGATIVE), (rows.positives, POSITIVE)):
        for row, named in enumerate(words):
            known = [index_of[word] for word in named if word in index_of]
            labels_NK[row, known] = value
            account.count(split, "outside_the_class_list", len(named) - len(known))
    return Part(
        names=tuple(rows.names),
        labels_NK=labels_NK,
        report=account.report(split),
        rejected_rows=account.rejected_rows(split),
    )
