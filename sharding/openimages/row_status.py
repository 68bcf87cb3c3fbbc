"""Decide what each annotation row becomes: a label, or the first reason why it labels nothing.

Rows repeat a few thousand distinct words millions of times. pyarrow delivers them as codes into a
dictionary, so that each word is parsed once per block and the rest is integer arithmetic.

Shapes: N rows of a block.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import IntEnum
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharding.classes import MID
from sharding.errors import InputError
from sharding.image_ids import IdIndex, parse_id_column
from sharding.openimages.conflicts import MACHINE_RANK, entry_codes

# Rank by source, most trusted first; `human` is V2's only source. `reviewed`, `ll-cp-correction`
# and `large-loss` are in our own exports: reviewed candidates, and entries that no human has seen,
# which yield to every human.
SOURCES = {
    "reviewed": 0,
    "verification": 1,
    "human": 1,
    "crowdsource-verification": 2,
    "ll-cp-correction": 6,
    "large-loss": 6,
    "machine": MACHINE_RANK,
}

_RANKS = {name.encode(): rank for name, rank in SOURCES.items()}

MOST_LISTED = 1000
"""Rejected rows that are listed one by one; all are counted."""

_UNKNOWN_MID, _NOT_A_MID = -1, -2

_MID = re.compile(MID.pattern.encode())
_DECIMAL = re.compile(rb"[0-9]{0,20}\.?[0-9]{0,20}(?:[eE][-+]?[0-9]{1,2})?")


class RowStatus(IntEnum):
    """What a row becomes; of several reasons against a label the largest one counts."""

    LABEL = 0
    UNKNOWN_MID = 1
    MACHINE_BELOW_THRESHOLD = 2
    MACHINE_IGNORED = 3
    BLANK = 4
    IN_ANOTHER_SPLIT = 5
    """About an image of a later split, or of the one whose tar holds it: what is for testing is
    not for training."""
    BAD_CONFIDENCE = 6
    BAD_MID = 7
    BAD_SOURCE = 8
    BAD_ID = 9
    BAD_COLUMNS = 10
    """Not as many cells as the header; such rows are no part of a block."""

    @property
    def key(self) -> str:
        """Name in reports."""
        return self.name.lower()


REJECTED = tuple(status for status in RowStatus if status >= RowStatus.IN_ANOTHER_SPLIT)
"""Statuses of rows that are malformed or misplaced: listed, and an error under a strict policy."""

_COLUMNS = {
    RowStatus.IN_ANOTHER_SPLIT: "ImageID",
    RowStatus.BAD_CONFIDENCE: "Confidence",
    RowStatus.BAD_MID: "LabelName",
    RowStatus.BAD_SOURCE: "Source",
    RowStatus.BAD_ID: "ImageID",
}

_FIXES = {
    RowStatus.IN_ANOTHER_SPLIT: "keep the image in one split: the one of its tar, if it has one",
    RowStatus.BAD_COLUMNS: "give the row four columns: ImageID,Source,LabelName,Confidence",
    RowStatus.BAD_SOURCE: f"use one of {', '.join(SOURCES)}",
    RowStatus.BAD_MID: "write a MID such as /m/01yrx, not a name or an index",
    RowStatus.BAD_CONFIDENCE: "write 0 or 1 (for Source machine, a number from 0 to 1)",
}


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """A malformed row: its file and 1-based line, image id as written, reason, and fix."""

    file: str
    row: int
    image_id: str
    reason: str
    fix: str

    def as_error(self) -> InputError:
        """Convert to the error of a strict policy."""
        return InputError(self.reason, file=self.file, row=self.row, fix=self.fix)


@dataclass(frozen=True, kw_only=True)
class ClassifiedRows:
    """The rows of a block with their status.

    Attributes:
        statuses_N: uint8 `RowStatus`.
        image_ids_N: uint64, 0 where malformed.
        codes_N: int32 `entry_codes`, meaningful where the status is LABEL.
    """

    statuses_N: npt.NDArray[np.uint8]
    image_ids_N: npt.NDArray[np.uint64]
    codes_N: npt.NDArray[np.int32]


def classify(
    batch: pa.RecordBatch,
    index_of: Mapping[bytes, int],
    threshold: float | None,
    elsewhere: IdIndex,
) -> ClassifiedRows:
    """Classify the rows of a block.

    Args:
        batch: the four columns of `sharding.openimages.csv_reader.HEADER`.
        index_of: class index by MID.
        threshold: least confidence of a machine label; None ignores them all.
        elsewhere: images of other splits, about which no row counts.
    """
    image_ids_N, is_id_N = parse_id_column(batch.column("ImageID"))
    classes_N = _parse_words(batch.column("LabelName"), partial(_class_of, index_of), np.int32)
    ranks_N = _parse_words(batch.column("Source"), lambda word: _RANKS.get(word, -1), np.int8)
    values_N = _parse_words(batch.column("Confidence"), parse_confidence, np.float64)
    is_machine_N = ranks_N == MACHINE_RANK
    is_negative_N = values_N == 0

    statuses_N = np.full(len(batch), RowStatus.LABEL, np.uint8)
    statuses_N[classes_N == _UNKNOWN_MID] = RowStatus.UNKNOWN_MID
    is_valid_N = is_negative_N | (values_N == 1)
    if is_machine_N.any():
        is_below_N = is_machine_N & (values_N < (threshold or 0.0))
        statuses_N[is_below_N] = RowStatus.MACHINE_BELOW_THRESHOLD
        if threshold is None:
            statuses_N[is_machine_N] = RowStatus.MACHINE_IGNORED
        is_valid_N |= is_machine_N & (values_N >= 0) & (values_N <= 1)
        is_negative_N &= ~is_machine_N
    statuses_N[~is_valid_N] = RowStatus.BAD_CONFIDENCE
    statuses_N[classes_N == _NOT_A_MID] = RowStatus.BAD_MID
    statuses_N[ranks_N < 0] = RowStatus.BAD_SOURCE
    if not is_id_N.all():
        statuses_N[~is_id_N] = RowStatus.BAD_ID
        statuses_N[_is_blank(batch)] = RowStatus.BLANK
    _set_in_another_split(statuses_N, image_ids_N, elsewhere)
    codes_N = entry_codes(classes_N, is_negative_N, ranks_N)
    return ClassifiedRows(statuses_N=statuses_N, image_ids_N=image_ids_N, codes_N=codes_N)


def _set_in_another_split(
    statuses_N: npt.NDArray[np.uint8], image_ids_N: npt.NDArray[np.uint64], elsewhere: IdIndex
) -> None:
    """Set the status of rows that would count, looking up each run of rows of one image once."""
    if not len(elsewhere) or not len(image_ids_N):
        return
    starts = np.flatnonzero(np.concatenate([[True], image_ids_N[1:] != image_ids_N[:-1]]))
    is_elsewhere = elsewhere.rows_of(image_ids_N[starts]) >= 0
    if is_elsewhere.any():
        is_elsewhere_N = np.repeat(is_elsewhere, np.diff([*starts, len(image_ids_N)]))
        statuses_N[is_elsewhere_N & (statuses_N <= RowStatus.UNKNOWN_MID)] = (
            RowStatus.IN_ANOTHER_SPLIT
        )


def rejected_rows(
    rows: ClassifiedRows,
    batch: pa.RecordBatch,
    lines_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]],
    file: str,
) -> list[RejectedRow]:
    """List the rejected rows of a block, the first `MOST_LISTED`.

    Args:
        rows: the block, classified.
        batch: its cells.
        lines_of: finds the lines in the file of rows of the block.
        file: name in the result.
    """
    indices_M = np.flatnonzero(rows.statuses_N >= REJECTED[0])[:MOST_LISTED]
    listed = []
    for index, line in zip(indices_M.tolist(), lines_of(indices_M).tolist(), strict=True):
        status = RowStatus(rows.statuses_N[index])
        cell, image_id = (_text(batch, name, index) for name in (_COLUMNS[status], "ImageID"))
        listed.append(_reject(status, file, line, image_id, cell))
    return listed


def rejected_line(file: str, line: int, text: str) -> RejectedRow:
    """Reject a line that does not have four cells."""
    return _reject(RowStatus.BAD_COLUMNS, file, line, text.split(",")[0], text)


def _reject(status: RowStatus, file: str, line: int, image_id: str, cell: str) -> RejectedRow:
    reason = f"{status.key}: {cell!r}"
    fix = _fix_of_id(image_id) if status == RowStatus.BAD_ID else _FIXES[status]
    return RejectedRow(file=file, row=line, image_id=image_id, reason=reason, fix=fix)


def _fix_of_id(image_id: str) -> str:
    """Say what to write for a malformed id: ``train/ID``, ``ID.jpg``, a number, a name."""
    if whole := re.search(r"(?<![0-9a-z])[0-9a-f]{16}(?![0-9a-z])", image_id.lower()):
        return f"write {whole[0]} alone"
    if re.fullmatch(r"[0-9.e+]*", image_id.lower()):
        return "write 16 lowercase hex characters; keep the column as text, never as a number"
    return "write 16 lowercase hex characters; names of your own are read by import --format csv"


@functools.lru_cache(1 << 16)
def is_mid(text: bytes) -> bool:
    """Test whether the text is a Freebase or Knowledge Graph id, in the class list or not."""
    return _MID.fullmatch(text) is not None


@functools.lru_cache(1 << 16)
def parse_confidence(text: bytes) -> float:
    """Parse a plain decimal (`1`, `1.0`, `0.7`); NaN for anything else.

    Exact at the ends: only what is 0 or 1 as a decimal comes out as 0.0 or 1.0.
    """
    if not _DECIMAL.fullmatch(text):
        return float("nan")
    try:
        exact = Decimal(text.decode())
    except InvalidOperation:
        return float("nan")
    value = float(exact)
    return value if Decimal(value) == exact or value not in (0.0, 1.0) else float("nan")


def count_words(column: pa.DictionaryArray) -> dict[bytes, int]:
    """Count the rows that hold each word, without words that no row holds."""
    counts = np.bincount(column.indices.to_numpy(), minlength=len(column.dictionary))
    words = column.dictionary.to_pylist()
    return {words[index]: int(counts[index]) for index in np.flatnonzero(counts).tolist()}


def _class_of(index_of: Mapping[bytes, int], word: bytes) -> int:
    index = index_of.get(word)
    if index is None:
        index = _UNKNOWN_MID if is_mid(word) else _NOT_A_MID
    return index


def _parse_words(
    column: pa.DictionaryArray, parse: Callable[[bytes], float], dtype: type
) -> npt.NDArray:
    """Parse each distinct word once; return the value of each row."""
    values = [parse(word) for word in column.dictionary.to_pylist()]
    return np.array(values, dtype)[column.indices.to_numpy()]


def _is_blank(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Find the rows whose cells are all empty, as an empty line's are."""
    is_blank_N = np.asarray(pc.equal(pc.binary_length(batch.column("ImageID")), 0))
    for name in ("Source", "LabelName", "Confidence"):
        is_blank_N = is_blank_N & _parse_words(batch.column(name), lambda word: not word, np.bool_)
    return is_blank_N


def _text(batch: pa.RecordBatch, column: str, index: int) -> str:
    return batch.column(column)[index].as_py()[:64].decode(errors="replace")
