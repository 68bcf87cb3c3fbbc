"""Define what a foreign collection is once it is read, for any file format.

Shapes: N images of a part, K classes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sharding import log
from sharding.errors import InputError
from sharding.importers.options import ImportOptions
from sharding.openimages.dump_files import COMPRESSED
from sharding.openimages.row_status import RejectedRow
from sharding.storage.compression import ARCHIVES

WITHOUT_POSITIVE = "without_positive"
"""Key of the policy: what becomes of images without any positive; of a report: their number."""
LEFT_OUT = "left out"
"""They are in no part of a new dataset (`sharding.importers.splits.with_positives`)."""
_EMPTY = ("nan", "none", "null", "n/a", "na")
_ENCLOSING = "<>[](){}"
"""Around such a word: pandas' ``<NA>``, or a list of it alone."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One official part of a collection, its images in the order of the official list.

    The order matters: the draws of single positives and of the validation images follow it.

    Attributes:
        names: N paths relative to the collection's image folder, with forward slashes.
        labels_NK: int8 tri-state labels.
        report: counts of what was read and left out.
        rejected_rows: malformed rows, the first of them.
    """

    names: tuple[str, ...]
    labels_NK: npt.NDArray[np.int8]
    report: Mapping[str, int] = field(default_factory=dict)
    rejected_rows: tuple[RejectedRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A collection as published.

    Attributes:
        release: of the label version: "voc2012", "coco2014", ...
        keys: K class keys of the shape of a MID, so that exports and re-sharding accept them.
        class_names: K display names.
        images: folder that image names are relative to.
        parts: by split; "train" is the official training set, from which validation is drawn
            where the collection has none.
        sources: sha256 of every file read, by path relative to the source.
        policy: what was decided on reading, for the manifest.
        unsplit: everything is in "train" because nothing says what is for testing.
        left_out: names of classes that it has labels of, and that were not asked for.
    """

    release: str
    keys: tuple[str, ...]
    class_names: tuple[str, ...]
    images: Path
    parts: Mapping[str, Part]
    sources: Mapping[str, str]
    policy: Mapping[str, Any] = field(default_factory=dict)
    unsplit: bool = False
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.keys) > np.iinfo(np.uint16).max:
            raise InputError(
                f"{len(self.keys):,} classes are too many", fix="give at most 65,535 classes"
            )
        if len(set(self.keys)) != len(self.keys):
            raise InputError("two classes get the same key", fix="give each class once")


class Reader(Protocol):
    """Reader of a format; one function per module of this package."""

    def __call__(self, options: ImportOptions) -> Collection:
        """Read the collection in the folder ``options.source``.

        Raises:
            InputError: a file is missing or is not of the format; under ``--strict`` a bad row.
        """
        ...


def class_key(prefix: str, name: str) -> str:
    """Make a key of the shape of a MID: of the name where it is plain, else of its hash."""
    is_plain = re.fullmatch(r"[0-9a-z_]+", name)
    suffix = name if is_plain else "x" + hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"/m/{prefix}_{suffix}"


def class_look(name: str) -> str:
    """Fold what a reader cannot tell apart in class names: case, spaces and Unicode form."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", name) if c.isprintable())
    return " ".join(shown.casefold().split())


def doubtful(names: Sequence[str]) -> str:
    """List names that a reader cannot tell apart, and words that programs print for empty cells."""
    by_look = defaultdict(list)
    for name in names:
        by_look[class_look(name)].append(name)
    groups = (g for look, g in by_look.items() if len(g) > 1 or look.strip(_ENCLOSING) in _EMPTY)
    return ", ".join(" and ".join(map(ascii, group)) for group in islice(groups, 5))


def recombine(uses: Mapping[str, int], names: int, *, are_words: bool) -> bool:
    """Tell lists, in which the same parts come again and again, from names that have parts.

    Kinds of things ("dog/small", "dog/other", "cat/other") have parts of their own.

    Args:
        uses: in how many names each part is.
        names: number of names with several parts.
        are_words: parts are words, which names share.
    """
    if not uses or len(uses) > names:
        return False
    return 2 * len(uses) <= names or (not are_words and min(uses.values()) > 1)


def is_text(value: object) -> bool:
    """Test whether a value can be a name: text without NUL or half of a surrogate pair."""
    return isinstance(value, str) and re.search("[\\0\ud800-\udfff]", value) is None


def choose_year(files: Mapping[int, Path], year: int | None) -> int:
    """Choose the year of a collection: the one asked for, else the first whose file exists.

    Raises:
        InputError: none exists, or another one than is asked for.
    """
    found = [year for year, path in files.items() if path.exists()]
    if year is not None:
        if found and year in files and year not in found:
            there = " and ".join(map(str, found))
            fix = f"unpack {year} there, or leave out --year for {found[0]}"
            raise InputError(f"is missing; {there} is here", file=files[year], fix=fix)
        return year
    if not found:
        problem = f"is missing, as are all of {' and '.join(map(str, files))}"
        first, fix = next(iter(files.values())), "check --source, or give --year"
        raise InputError(problem, file=first, fix=unpack_first(first, fix))
    if others := " and ".join(map(str, found[1:])):
        log.info(f"note: {others} is here too; {found[0]} is read (--year reads another)")
    return found[0]


def first_existing(candidates: list[Path], what: str, fix: str) -> Path:
    """Find the first of several paths that exists.

    Raises:
        InputError: none does.
    """
    for path in candidates:
        if path.exists():
            return path
    raise InputError(f"{what} is missing", file=candidates[0], fix=unpack_first(candidates[0], fix))


def unpack_first(missing: Path, fix: str) -> str:
    """Name the packed files where a missing one should be, or above, as what to unpack."""
    folder = next((folder for folder in missing.parents if folder.is_dir()), missing)
    suffixes = (*ARCHIVES, *COMPRESSED)
    packed = sorted(path.name for path in folder.glob("*") if path.name.endswith(suffixes))
    return f"unpack {', '.join(packed[:4])} there" if packed else fix
