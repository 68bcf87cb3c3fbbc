"""What becomes of each row of annotations: a label, or the first reason why it is none.

Rows that label nothing, listed with file, line and the cell at fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharding.image_ids import parse_id_column
from sharding.openimages.conflicts import MACHINE_RANK, entry_codes
from sharding.openimages.csv_reader import LabelCsv
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.vocabulary import NOT_A_MID, SOURCES, UNKNOWN_MID, Vocabulary

# A row with several faults is counted under the one that comes last here; an empty line has none.
FATES = (
    "label",
    "unknown_mid",
    "machine_below_threshold",
    "machine_ignored",
    "blank",
    "bad_confidence",
    "bad_mid",
    "bad_source",
    "bad_id",
)

LABEL, UNKNOWN, _BELOW, _IGNORED, _BLANK, _BAD_CONFIDENCE, _BAD_MID, _BAD_SOURCE, _BAD_ID = range(9)

FIRST_BAD = _BAD_CONFIDENCE

BROKEN = "bad_columns"

CELLS = {
    "bad_confidence": "Confidence",
    "bad_mid": "LabelName",
    "bad_source": "Source",
    "bad_id": "ImageID",
}

FIXES = {
    BROKEN: "give the row four columns: ImageID,Source,LabelName,Confidence",
    "bad_id": "write 16 lowercase hex characters; keep the column as text, never as a number",
    "bad_source": f"use one of {', '.join(SOURCES)}",
    "bad_mid": "write a MID such as /m/01yrx, not a name or an index",
    "bad_confidence": "write 0 or 1 (for Source machine, a number from 0 to 1)",
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A block of N rows, judged.

    Attributes:
        fates_N: uint8 indices into `FATES`.
        keys_N: uint64 image ids, 0 where bad.
        codes_N: int32 `entry_codes`, meaningful where the fate is `LABEL`.
    """

    fates_N: npt.NDArray[np.uint8]
    keys_N: npt.NDArray[np.uint64]
    codes_N: npt.NDArray[np.int32]


def judge(batch: pa.RecordBatch, vocabulary: Vocabulary, threshold: float | None) -> Judged:
    """Judge the rows of a block.

    Args:
        batch: the four columns of `sharding.openimages.csv_reader.HEADER`.
        vocabulary: knows the class list.
        threshold: least confidence of a machine label; None ignores them all.
    """
    keys_N, is_id_N = parse_id_column(batch.column("ImageID"))
    classes_N = vocabulary.classes(batch.column("LabelName"))
    ranks_N = vocabulary.ranks(batch.column("Source"))
    values_N = vocabulary.confidences(batch.column("Confidence"))
    machine_N = ranks_N == MACHINE_RANK
    absent_N = values_N == 0

    fates_N = np.full(len(batch), LABEL, np.uint8)
    fates_N[classes_N == UNKNOWN_MID] = UNKNOWN
    valid_N = absent_N | (values_N == 1)
    if machine_N.any():
        below_N = machine_N & (values_N < (threshold or 0.0))
        fates_N[below_N] = _BELOW
        if threshold is None:
            fates_N[machine_N] = _IGNORED
        valid_N |= machine_N & (values_N >= 0) & (values_N <= 1)
        absent_N &= ~machine_N
    fates_N[~valid_N] = _BAD_CONFIDENCE
    fates_N[classes_N == NOT_A_MID] = _BAD_MID
    fates_N[ranks_N < 0] = _BAD_SOURCE
    if not is_id_N.all():
        fates_N[~is_id_N] = _BAD_ID
        fates_N[_is_blank(batch)] = _BLANK
    return Judged(fates_N=fates_N, keys_N=keys_N, codes_N=entry_codes(classes_N, absent_N, ranks_N))


def _is_blank(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Rows whose cells are all empty, as an empty line's are."""
    blank_N = np.asarray(pc.equal(pc.binary_length(batch.column("ImageID")), 0))
    for name in ("Source", "LabelName", "Confidence"):
        column = batch.column(name)
        empty = np.array([not word for word in column.dictionary.to_pylist()], np.bool_)
        blank_N = blank_N & empty[column.indices.to_numpy()]
    return blank_N


MOST_LISTED = 1000


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """A row that labels nothing: where it stands, its image id as written, and the reason."""

    file: str
    row: int
    image_id: str
    reason: str


def rejected_rows(
    judged: Judged, batch: pa.RecordBatch, rows: LabelCsv, ordinal: int, file: DumpFile
) -> list[RejectedRow]:
    """The bad rows of a block, the first `MOST_LISTED`; ``ordinal`` is that of its first row."""
    found = []
    bad = np.flatnonzero(judged.fates_N >= FIRST_BAD)[:MOST_LISTED]
    for index, line in zip(bad.tolist(), rows.lines(ordinal + bad).tolist(), strict=True):
        fate = FATES[judged.fates_N[index]]
        cell = _text(batch, CELLS[fate], index)
        image_id = _text(batch, "ImageID", index)
        found.append(
            RejectedRow(file=str(file), row=line, image_id=image_id, reason=f"{fate}: {cell!r}")
        )
    return found


def broken_rows(rows: LabelCsv, file: DumpFile) -> list[RejectedRow]:
    """The rows of a wrong number of columns met since the last call."""
    return [
        RejectedRow(
            file=str(file), row=line, image_id=text.split(",")[0], reason=f"{BROKEN}: {text!r}"
        )
        for line, text in rows.take_broken()
    ]


def _text(batch: pa.RecordBatch, column: str, index: int) -> str:
    return batch.column(column)[index].as_py()[:64].decode(errors="replace")
