"""Read any folder of images with a CSV of `image,labels`, and perhaps `negatives` and `split`.

A table may have one row per image, or one per image and label: rows about the same image are
united. A class that no row of an image names is absent (a complete table), unless the table has a
column of negatives: then it is unobserved, as in Open Images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from sharding.errors import InputError
from sharding.importers.collection import (
    Collection,
    Part,
    class_key,
    class_look,
    first_existing,
    recombine,
)
from sharding.importers.csv_rows import SEPARATORS, Row, read_rows
from sharding.importers.options import COLUMNS, ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.layout import MANIFEST_FILE, SPLITS, is_below
from sharding.log import count, info
from sharding.manifest import Manifest
from sharding.openimages.row_status import is_mid
from sharding.sources.spelling import Spellings

READ_AS = "read_as"
"""Key of the policy: options of the columns and the separator, where they are not the defaults."""
_MOST_ENTRIES = 4 << 30
_FIX = "mend the row, or leave out --strict to set such rows aside"
_OTHER_SEPARATORS = {**SEPARATORS, "/": "/"}
_OTHER_SEPARATORS["space"] = _OTHER_SEPARATORS.pop("space")  # the last: it may follow a comma


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """Hold what the rows about an image say.

    Attributes:
        name: path of the image.
        split: of the image.
        positives: classes named as present.
        negatives: classes named as absent.
        disputed: classes that one row names as present and another one as absent.
        whole: no row about the image was rejected, so that what is not named may be absent.
    """

    name: str
    split: str
    positives: Sequence[str]
    negatives: Sequence[str]
    disputed: Sequence[str]
    whole: bool


@dataclass(kw_only=True)
class _Image:
    """Collect the rows about an image; `line` is the first that names the split."""

    line: int
    split: str
    positives: dict[str, None] = field(default_factory=dict)
    negatives: dict[str, None] = field(default_factory=dict)


def read_table(options: ImportOptions) -> Collection:
    """Read the CSV; see `sharding.importers.collection.Reader`."""
    source = options.source
    fix = "name the file with --table"
    path = first_existing([options.table or source / "labels.csv"], "the table", fix)
    log = ReadLog(source, strict=options.strict)
    table, header = read_rows(path, options, log)
    rows, written = _unite(table, path, source, log)
    found = {name for row in rows for name in (*row.positives, *row.negatives)}
    listed = () if options.classes is None else _read_class_list(options.classes, log)
    _refuse_lists(written, found, listed, path, options)
    left_out = _leave_out(written, found, listed, path, options)
    names = listed or tuple(sorted(found))
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
        left_out=left_out,
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


def _unite(
    table: Iterable[Row], path: Path, source: Path, account: ReadLog
) -> tuple[list[ImageRow], dict[str, int]]:
    """Unite the rows about each image, in the order of their first mention.

    Names that differ in case or Unicode form alone are one image where they are of one file.
    Returns also the first line of each class that a good row names between separators.

    Raises:
        InputError: no row can be used; under ``--strict`` a row is bad.
    """
    images: dict[str, _Image] = {}
    broken: set[str] = set()
    spellings = Spellings(source)
    first: Row | None = None
    written: dict[str, int] = {}
    for row in table:
        if is_below(row.name):
            row = replace(row, name=spellings.first(row.name))
        if row.problem:
            first = first or row
            split = row.split or "train"
            account.reject(split, path, row.line, row.problem, fix=_FIX, image=row.name)
            broken.add(row.name)
        else:
            _add(images, row, path, account)
            for name in row.written:
                written.setdefault(name, row.line)
    if not images:
        fix = "check the table and its separator"
        if first is None:
            raise InputError("no row can be used", file=path, fix=fix)
        problem = f"no row can be used; the first: {first.problem}"
        fix = "mend such rows, or name other columns (--image-column, --split-column, ...)"
        raise InputError(problem, file=path, row=first.line, fix=fix)
    return [_united(name, image, name not in broken) for name, image in images.items()], written


def _add(images: dict[str, _Image], row: Row, path: Path, account: ReadLog) -> None:
    """Add a good row to those of its image; what is for testing is in no other split."""
    assert row.split is not None
    image = images.setdefault(row.name, _Image(line=row.line, split=row.split))
    if image.line != row.line:
        account.count(row.split, "further_rows")
    if image.split != row.split:
        kept, left = sorted((image.split, row.split), key=SPLITS.index, reverse=True)
        reason = (
            f"in two splits: {row.split} here, {image.split} on row {image.line}; {kept} counts"
        )
        account.reject(left, path, row.line, reason, fix=_FIX, image=row.name)
        if kept == row.split:
            image.split, image.line = kept, row.line
    image.positives.update(dict.fromkeys(row.positives))
    image.negatives.update(dict.fromkeys(row.negatives))
    for name in {*row.positives, *row.negatives} & image.positives.keys() & image.negatives.keys():
        reason = f"present on one row and absent on another: {name!r:.80}"
        account.reject(image.split, path, row.line, reason, fix=_FIX, image=row.name)


def _united(name: str, image: _Image, whole: bool) -> ImageRow:
    return ImageRow(
        name=name,
        split=image.split,
        positives=tuple(image.positives),
        negatives=tuple(image.negatives),
        disputed=tuple(image.positives.keys() & image.negatives.keys()),
        whole=whole,
    )


def _refuse_lists(
    written: Mapping[str, int],
    found: set[str],
    listed: Sequence[str],
    path: Path,
    options: ImportOptions,
) -> None:
    """Refuse names that another separator splits into classes; warn of those that may be classes.

    A class with such a character in its name, "salt/pepper", stays: its parts are no classes, and
    make up no other names. Classes are often named "apple/fresh", or "ace of clubs".
    """
    own = SEPARATORS.get(options.separator, options.separator)
    known, exempt = found.union(listed), frozenset(listed)
    for word, separator in _OTHER_SEPARATORS.items():
        parts_of = {
            name: parts
            for name in written
            if len(parts := [p.strip() for p in name.split(separator) if p.strip()]) > 1
        }
        is_named = not exempt.isdisjoint(parts_of)  # then the list chooses from such names
        parts_of = {name: parts for name, parts in parts_of.items() if name not in exempt}
        of_classes = [name for name, parts in parts_of.items() if known.issuperset(parts)]
        uses = Counter(part for parts in parts_of.values() for part in {*parts})
        if of_classes and separator != " ":  # names have spaces, and words of them are classes
            name, problem = of_classes[0], "is a list of other classes of this table"
            classes, is_sure = "it is one class, name it", True
        elif not is_named and recombine(uses, len(parts_of), are_words=separator == " "):
            name = next(iter(parts_of))
            problem = f"looks like a list: {len(parts_of):,} such names are made of {len(uses):,}"
            classes = "such names are classes, name all classes"
            stand_alone = not known.isdisjoint(uses)
            is_sure = separator != "/" and (separator != " " or stand_alone)
        else:
            continue
        when = f"if {classes} in --classes FILE; if not" if is_sure else "if it is one"
        fix = f"{when}, pass --separator {word}, or write {own!r} between them"
        error = InputError(f"{name!r:.80} {problem}", file=path, row=written[name], fix=fix)
        tell = _refuse if is_sure else _warn
        tell(error, options)


def _refuse(error: InputError, options: ImportOptions) -> None:
    """Raise an error about class names; of a finished import, which has them, only warn."""
    if not _is_finished(options):
        raise error
    _warn(error, options)


def _warn(error: InputError, options: ImportOptions) -> None:
    fix = None if _is_finished(options) else error.fix
    info(str(InputError(error.problem, file=error.file, row=error.row, fix=fix)), "WARNING")


def _is_finished(options: ImportOptions) -> bool:
    """Tell whether the labels are those of a finished import, which its own command repeats."""
    output = Path(options.output)
    if not (output / MANIFEST_FILE).is_file():
        return False
    return options.name is None or options.name in Manifest.read(output).labels


def _leave_out(
    written: Mapping[str, int],
    found: set[str],
    listed: Sequence[str],
    path: Path,
    options: ImportOptions,
) -> tuple[str, ...]:
    """List the classes of the table that the class list lacks, and tell them.

    Raises:
        InputError: one looks like a class of the list, or the list has none of the table's.
    """
    if options.classes is None or found.issubset(listed):
        return ()
    left_out = tuple(sorted(found.difference(listed)))
    by_look = {class_look(name): name for name in listed}
    for name in left_out:
        if (alike := by_look.get(class_look(name))) is not None:
            problem = f"{name!a:.80} is not in the class list, which has {alike!a:.80}"
            fix = f"write it alike here and in {options.classes}, or name both there"
            _refuse(InputError(problem, file=path, row=written.get(name), fix=fix), options)
            break
    named = ", ".join(f"{name!r:.80}" for name in left_out[:5])
    if len(left_out) == len(found):
        problem = f"it names no class of the table, which has {named}"
        fix = "write the classes as the table does, one a line"
        _refuse(InputError(problem, file=options.classes, fix=fix), options)
    more = f" and {len(left_out) - 5:,} more" if len(left_out) > 5 else ""
    what = f"{count(len(left_out), 'class')} outside {options.classes.name}"
    info(f"{path}: {what}, left out: {named}{more}", "WARNING")
    return left_out


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
