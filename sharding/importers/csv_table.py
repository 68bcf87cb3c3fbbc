"""Read any folder of images with a CSV of `image,labels`, and perhaps `negatives` and `split`.

Rows about the same image are united. A class that no row of an image names is absent (a complete
table), unless the table has a column of negatives: then it is unobserved, as in Open Images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from sharding.errors import InputError
from sharding.importers.collection import Collection, Part, class_key, first_existing
from sharding.importers.csv_rows import SEPARATORS, ImageRow, read_rows
from sharding.importers.options import COLUMNS, ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.layout import SPLITS
from sharding.openimages.row_status import is_mid

READ_AS = "read_as"
"""Key of the policy: options of the columns and the separator, where they are not the defaults."""
_MOST_ENTRIES = 4 << 30


def read_table(options: ImportOptions) -> Collection:
    """Read the CSV; see `sharding.importers.collection.Reader`."""
    source = options.source
    fix = "name the file with --table"
    path = first_existing([options.table or source / "labels.csv"], "the table", fix)
    log = ReadLog(source, strict=options.strict)
    rows, header = read_rows(path, options, log)
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
    by_split = {split: [row for row in rows if row.split == split] for split in SPLITS}
    parts = {s: part for s, part in by_split.items() if part or s in log.splits}
    return Collection(
        release="csv",
        # A name that is a MID stays what it is: such a table fits other dumps of Open Images.
        keys=tuple(n if is_mid(n.encode()) else class_key("csv", n) for n in names),
        class_names=names,
        images=source,
        parts={s: _part(s, part, names, state, path, log) for s, part in parts.items()},
        sources=log.sources,
        policy={"unlisted": unlisted, **_read_as(options)},
        unsplit=options.split_column not in header,
    )


def _read_as(options: ImportOptions) -> dict[str, dict[str, str]]:
    """Record the columns and the separator, where they are not the default ones."""
    values = {name: getattr(options, name) for name in COLUMNS}
    values["separator"] = SEPARATORS.get(options.separator, options.separator)
    defaults = {field.name: field.default for field in fields(options)}
    given = {name: value for name, value in values.items() if value != defaults[name]}
    return {READ_AS: given} if given else {}


def _read_class_list(path: Path, log: ReadLog) -> tuple[str, ...]:
    names = tuple(line for line in log.lines(path) if line)
    repeated = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if not names or repeated is not None:
        problem = "the class list is empty" if not names else f"{repeated!r} is there twice"
        raise InputError(problem, file=path, fix="give one class a line, each once")
    return names


def _part(
    split: str, rows: Sequence[ImageRow], names: Sequence[str], state: int, path: Path, log: ReadLog
) -> Part:
    """Build a part; ``state`` is that of classes that no row about an image names.

    A rejected row may have named them: then they are unobserved.
    """
    if len(rows) * len(names) > _MOST_ENTRIES:
        raise InputError(
            f"{len(rows):,} images with {len(names):,} classes are too many for one table",
            file=path,
            fix="give a shorter list with --classes",
        )
    index_of = {name: index for index, name in enumerate(names)}
    labels_NK = np.full((len(rows), len(names)), state, np.int8)
    for labels_K, row in zip(labels_NK, rows, strict=True):
        if not row.whole:
            labels_K[:] = UNOBSERVED
        stated = ((row.negatives, NEGATIVE), (row.positives, POSITIVE))
        for words, value in (*stated, (row.disputed, UNOBSERVED)):
            indices = [index_of[word] for word in words if word in index_of]
            labels_K[indices] = value
            log.count(split, "outside_the_class_list", len(words) - len(indices))
    return log.part(split, [row.name for row in rows], labels_NK)
