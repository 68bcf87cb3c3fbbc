"""Store how confident a machine is that classes are present: one table per split and version.

Confidences are evidence, not labels: no label table holds one, and nothing that scores a network
reads them. A table has the rows of the split's label tables, and stores only the entries that the
machine gave.

Shapes: N images of a table, B images of a batch, E entries, K classes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sharding.errors import InputError, how_to_repair
from sharding.image_ids import format_image_ids, parse_image_ids
from sharding.labels import LabelTable, entry_keys, offsets_of, positions_of
from sharding.storage import parquet

_KIND = "table of confidences"
_ROWS_AT_ONCE = 1 << 16
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("classes", pa.list_(pa.uint16())),
        ("confidences", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Confidences:
    """Confidences of B images as flat arrays of equal length E.

    ``rows_E`` int64 position of the image, ``classes_E`` int64, ``values_E`` float32 in [0, 1].
    """

    rows_E: npt.NDArray[np.int64]
    classes_E: npt.NDArray[np.int64]
    values_E: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ConfidenceTable:
    """Sparse confidences of N images, in the order of the split's label tables.

    Attributes:
        image_ids_N: uint64 ids.
        offsets_N1: int64, N + 1 entries; row n owns ``classes_E[offsets[n]:offsets[n + 1]]``.
        classes_E: uint16 class indices, ascending within a row.
        values_E: float32 confidences in [0, 1].
    """

    image_ids_N: npt.NDArray[np.uint64]
    offsets_N1: npt.NDArray[np.int64]
    classes_E: npt.NDArray[np.uint16]
    values_E: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.image_ids_N)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ConfidenceTable:
        """Read a table.

        Raises:
            InputError: the file is missing or is no such table.
        """
        return cls.join(read_parts(path))

    @classmethod
    def join(cls, parts: Iterable[ConfidenceTable]) -> ConfidenceTable:
        """Join the rows of tables, in that order."""
        ids, counts = parquet.Column(np.uint64), parquet.Column(np.int32)
        classes, values = parquet.Column(np.uint16), parquet.Column(np.float32)
        for part in parts:
            ids.add(part.image_ids_N)
            counts.add(np.diff(part.offsets_N1))
            classes.add(part.classes_E)
            values.add(part.values_E)
        return cls(
            image_ids_N=ids.whole(),
            offsets_N1=offsets_of(counts.whole()),
            classes_E=classes.whole(),
            values_E=values.whole(),
        )

    def fault(self, num_classes: int) -> str | None:
        """Say what makes the table unusable for K classes; None if nothing does."""
        lowest, highest = self.values_E.min(initial=0), self.values_E.max(initial=0)  # NaN if any
        if not (lowest >= 0 and highest <= 1):
            return "a confidence is not from 0 to 1"
        if self.classes_E.max(initial=0) >= num_classes:
            return f"class {self.classes_E.max()} of {num_classes}"
        for first in range(0, len(self), _ROWS_AT_ONCE):
            found = self.entries(np.arange(first, min(first + _ROWS_AT_ONCE, len(self))))
            keys_E = entry_keys(found.rows_E, found.classes_E)
            if not (rises_E := keys_E[1:] > keys_E[:-1]).all():
                row = first + found.rows_E[np.argmin(rises_E)]
                image_id = format_image_ids(self.image_ids_N[[row]])[0]
                return f"image {image_id} has a class twice, or not in order"
        return None

    def entries(self, rows_B: npt.NDArray[np.integer]) -> Confidences:
        """List the entries of a batch of rows, in that order; row -1 has none."""
        counts_B, positions_E = positions_of(self.offsets_N1, rows_B)
        return Confidences(
            rows_E=np.repeat(np.arange(len(counts_B)), counts_B),
            classes_E=self.classes_E[positions_E].astype(np.int64),
            values_E=self.values_E[positions_E],
        )

    def look_up(
        self, rows_M: npt.NDArray[np.integer], classes_M: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float32]:
        """Look up the confidence of each (row, class), float32; NaN where there is none."""
        found = self.entries(rows_M)
        keys_E = entry_keys(found.rows_E, found.classes_E)  # ascending
        wanted_M = entry_keys(np.arange(len(rows_M)), classes_M)
        places_M = np.searchsorted(keys_E, wanted_M)
        values_M = np.full(len(rows_M), np.nan, np.float32)
        inside = np.flatnonzero(places_M < len(keys_E))
        hits = inside[keys_E[places_M[inside]] == wanted_M[inside]]
        values_M[hits] = found.values_E[places_M[hits]]
        return values_M

    def without_observed(self, labels: LabelTable, first: int = 0) -> tuple[ConfidenceTable, int]:
        """Leave out the entries that labels of the same images observed: humans win.

        Args:
            labels: of the split.
            first: row of the labels that is this table's first.

        Returns:
            The table, and how many entries were left out.
        """
        rows_N = np.arange(len(self))
        mine, known = self.entries(rows_N), labels.observed(rows_N + first)
        known_keys = entry_keys(known.rows_E, known.classes_E)
        kept_E = ~np.isin(entry_keys(mine.rows_E, mine.classes_E), known_keys)
        left = ConfidenceTable(
            image_ids_N=self.image_ids_N,
            offsets_N1=offsets_of(kept_E.astype(np.int8))[self.offsets_N1],
            classes_E=self.classes_E[kept_E],
            values_E=self.values_E[kept_E],
        )
        return left, int(np.count_nonzero(~kept_E))


def read_unobserved(
    path: str | os.PathLike[str], labels: LabelTable
) -> tuple[ConfidenceTable, int]:
    """Read the confidences of entries that nobody has labelled.

    Returns:
        The table, and how many confidences of labelled entries were ignored.

    Raises:
        InputError: the file is missing, is no such table, or is of other images than the labels.
    """
    ignored = first = 0

    def unobserved() -> Iterator[ConfidenceTable]:
        nonlocal ignored, first
        for part in read_parts(path):
            if not np.array_equal(part.image_ids_N, labels.image_ids_N[first : first + len(part)]):
                return
            left, known = part.without_observed(labels, first)
            yield left
            ignored, first = ignored + known, first + len(part)

    table = ConfidenceTable.join(unobserved())
    if first != len(labels):
        problem = "its rows do not follow the images of the split"
        raise InputError(problem, file=path, fix=how_to_repair(path))
    return dataclasses.replace(table, image_ids_N=labels.image_ids_N), ignored


def read_parts(path: str | os.PathLike[str]) -> Iterator[ConfidenceTable]:
    """Read a table by its row groups, of which one is in memory at a time.

    Raises:
        InputError: the file is missing or is no such table.
    """
    fix = how_to_repair(path)
    for rows in parquet.read_parts(path, SCHEMA, kind=_KIND, fix=fix):
        with parquet.as_input_error(path, kind=_KIND, fix=fix):
            part = _part(rows)
        yield part


def _part(rows: pa.Table) -> ConfidenceTable:
    ids, classes, values = (rows[name].combine_chunks() for name in SCHEMA.names)
    offsets_N1 = classes.offsets.to_numpy().astype(np.int64)
    if not np.array_equal(offsets_N1, values.offsets.to_numpy()):
        raise ValueError("classes and confidences are not paired")
    return ConfidenceTable(
        image_ids_N=parse_image_ids(ids),
        offsets_N1=offsets_N1 - offsets_N1[0],
        classes_E=classes.flatten().to_numpy(),
        values_E=values.flatten().to_numpy(),
    )


def write_part(
    writer: pq.ParquetWriter,
    image_ids_N: npt.NDArray[np.uint64],
    entries: Confidences,
) -> None:
    """Write one row group.

    Args:
        writer: of a file of `SCHEMA`.
        image_ids_N: its images.
        entries: theirs, ordered by row and class.
    """
    counts_N = np.bincount(entries.rows_E, minlength=len(image_ids_N))
    offsets = pa.array(offsets_of(counts_N).astype(np.int32))
    classes, values = entries.classes_E.astype(np.uint16), entries.values_E
    columns = [
        pa.array(format_image_ids(image_ids_N), pa.string()),
        pa.ListArray.from_arrays(offsets, pa.array(classes)),
        pa.ListArray.from_arrays(offsets, pa.array(values)),
    ]
    writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=max(1, len(image_ids_N)))
