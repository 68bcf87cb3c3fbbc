"""Rows that label nothing, listed with file, line and the cell at fault."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sharding.dumpfiles import DumpFile
from sharding.fates import BROKEN, CELLS, FATES, FIRST_BAD, Judged
from sharding.rows import LabelCsv

MOST_LISTED = 1000


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that labels nothing: where it stands, its image id as written, and the reason."""

    file: str
    row: int
    image_id: str
    reason: str


def bad_rows(
    judged: Judged, batch: pa.RecordBatch, rows: LabelCsv, ordinal: int, file: DumpFile
) -> list[BadRow]:
    """The bad rows of a block, the first `MOST_LISTED`; ``ordinal`` is that of its first row."""
    found = []
    bad = np.flatnonzero(judged.fates_N >= FIRST_BAD)[:MOST_LISTED]
    for index, line in zip(bad.tolist(), rows.lines(ordinal + bad).tolist(), strict=True):
        fate = FATES[judged.fates_N[index]]
        cell = _text(batch, CELLS[fate], index)
        image_id = _text(batch, "ImageID", index)
        found.append(
            BadRow(file=str(file), row=line, image_id=image_id, reason=f"{fate}: {cell!r}")
        )
    return found


def broken_rows(rows: LabelCsv, file: DumpFile) -> list[BadRow]:
    """The rows of a wrong number of columns met since the last call."""
    return [
        BadRow(file=str(file), row=line, image_id=text.split(",")[0], reason=f"{BROKEN}: {text!r}")
        for line, text in rows.take_broken()
    ]


def _text(batch: pa.RecordBatch, column: str, index: int) -> str:
    return batch.column(column)[index].as_py()[:64].decode(errors="replace")
