"""Define tri-state labels, and store them sparsely: one label table per split and version.

A class of an image is POSITIVE (a human saw it), NEGATIVE (a human looked and it is absent) or
UNOBSERVED (nobody looked). Other encodings (single-positive repositories, IMCL) are converted
where they enter. A label table stores only observed entries, as class indices; the dense matrix
is made per batch, on the training device.

Shapes: N images of a table, B images of a batch, E observed entries, K classes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharding.errors import how_to_repair
from sharding.image_ids import IdIndex, format_id_column, format_image_ids, parse_image_ids
from sharding.storage.parquet import Column, as_input_error, decoded, read_parts, write_table

POSITIVE = 1
NEGATIVE = 0
UNOBSERVED = -1

_KIND = "label table"
_ROWS_AT_ONCE = 1 << 18

_INDICES = pa.list_(pa.uint16())
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("positives", _INDICES),
        ("negatives", _INDICES),
        ("shard", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Observed entries of B images as flat arrays of equal length E.

    ``rows_E`` int64 position of the image, ``classes_E`` int64, ``states_E`` int8 in {+1, 0}.
    """

    rows_E: npt.NDArray[np.int64]
    classes_E: npt.NDArray[np.int64]
    states_E: npt.NDArray[np.int8]


def entry_keys(
    rows_E: npt.NDArray[np.integer], classes_E: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Pack image row and class (16 bits) into one int64 per entry, ordered by row, then class."""
    keys_E = rows_E.astype(np.int64, copy=False) << 16
    keys_E |= classes_E
    return keys_E


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """Sparse tri-state labels of N images, in shard order (compressed sparse rows).

    Attributes:
        image_ids_N: uint64 ids (`parse_image_ids`).
        offsets_N1: int64, N + 1 entries; row n owns ``classes_E[offsets[n]:offsets[n + 1]]``.
        classes_E: uint16 class indices, positives before negatives within a row.
        states_E: int8 in {POSITIVE, NEGATIVE}.
        shards: name of the tar that holds each image ("" where no tar does), length N.
    """

    image_ids_N: npt.NDArray[np.uint64]
    offsets_N1: npt.NDArray[np.int64]
    classes_E: npt.NDArray[np.uint16]
    states_E: npt.NDArray[np.int8]
    shards: Sequence[str]

    def __post_init__(self) -> None:
        N, E = len(self.image_ids_N), len(self.classes_E)
        if len(self.offsets_N1) != N + 1 or self.offsets_N1[0] != 0 or self.offsets_N1[-1] != E:
            raise ValueError(f"offsets do not describe {N} rows over {E} entries")
        if len(self.states_E) != E or len(self.shards) != N:
            raise ValueError("states or shards differ in length from classes or ids")

    def __len__(self) -> int:
        return len(self.image_ids_N)

    @classmethod
    def from_lists(
        cls,
        image_ids: Sequence[str],
        positives: Sequence[Iterable[int]],
        negatives: Sequence[Iterable[int]],
        shards: Sequence[str] | None = None,
    ) -> LabelTable:
        """Build from one list of class indices per image and state (small data, tests)."""
        entries_E3 = [
            (row, index, state)
            for row, both in enumerate(zip(positives, negatives, strict=True))
            for classes, state in zip(both, (POSITIVE, NEGATIVE), strict=True)
            for index in classes
        ]
        rows_E, classes_E, states_E = np.array(entries_E3, np.int64).reshape(-1, 3).T
        return cls.from_entries(parse_image_ids(image_ids), rows_E, classes_E, states_E, shards)

    @classmethod
    def from_entries(
        cls,
        image_ids_N: npt.NDArray[np.uint64],
        rows_E: npt.NDArray[np.integer],
        classes_E: npt.NDArray[np.integer],
        states_E: npt.NDArray[np.integer],
        shards: Sequence[str] | None = None,
    ) -> LabelTable:
        """Build from observed entries in any order, as `entries` gives them.

        Args:
            image_ids_N: uint64 ids, in the order of the table's rows.
            rows_E: row of each entry's image.
            classes_E: class index below 65,536.
            states_E: POSITIVE or NEGATIVE.
            shards: name of the tar of each image; none by default.
        """
        # Packed with its state an entry is sorted as one integer, several times faster than by
        # an order of indices: row | negative | class.
        keys_E = entry_keys(rows_E << 1 | (states_E != POSITIVE), classes_E)
        keys_E.sort()
        return cls(
            image_ids_N=image_ids_N,
            offsets_N1=offsets_of(np.bincount(rows_E, minlength=len(image_ids_N))),
            classes_E=keys_E.astype(np.uint16),
            states_E=((keys_E & 1 << 16) == 0).view(np.int8),  # True is POSITIVE
            shards=[""] * len(image_ids_N) if shards is None else list(shards),
        )

    @classmethod
    def from_dense(
        cls, image_ids_N: npt.NDArray[np.uint64], labels_NK: npt.NDArray[np.int8]
    ) -> LabelTable:
        """Build from dense labels (N, K) in {+1, 0, -1}: the inverse of `dense`."""
        rows_E, classes_E = np.nonzero(labels_NK != UNOBSERVED)
        return cls.from_entries(image_ids_N, rows_E, classes_E, labels_NK[rows_E, classes_E])

    @classmethod
    def concatenate(cls, first: LabelTable, second: LabelTable) -> LabelTable:
        """Build from the rows of one table followed by those of another."""
        return cls(
            image_ids_N=np.concatenate([first.image_ids_N, second.image_ids_N]),
            offsets_N1=offsets_of(np.concatenate([first.counts_N, second.counts_N])),
            classes_E=np.concatenate([first.classes_E, second.classes_E]),
            states_E=np.concatenate([first.states_E, second.states_E]),
            shards=[*first.shards, *second.shards],
        )

    def fault(self, num_classes: int) -> str | None:
        """Say what makes the table unusable for K classes; None if nothing does.

        An image may stand once, and a class once in its row, as positive or as negative.
        """
        if len(twice := self._index.repeated()):
            return f"image {format_image_ids(twice[:1].astype(np.uint64))[0]} stands there twice"
        blocks = range(0, len(self), _ROWS_AT_ONCE)
        faults = (self._fault_in(first, num_classes) for first in blocks)
        return next((fault for fault in faults if fault is not None), None)

    def _fault_in(self, first: int, num_classes: int) -> str | None:
        """Say what is wrong with the classes of a block of rows."""
        entries = self.observed(np.arange(first, min(first + _ROWS_AT_ONCE, len(self))))
        keys_E = entry_keys(entries.rows_E, entries.classes_E)
        if (beyond_E := entries.classes_E >= num_classes).any():
            key, problem = keys_E[np.argmax(beyond_E)], f"of {num_classes}"
        else:
            keys_E.sort()
            again = keys_E[1:] == keys_E[:-1]
            if not again.any():
                return None
            key, problem = keys_E[np.argmax(again)], "twice, or as positive and as negative"
        image_id = format_image_ids(self.image_ids_N[[first + (key >> 16)]])[0]
        return f"image {image_id} has class {key & 0xFFFF} {problem}"

    @property
    def counts_N(self) -> npt.NDArray[np.int64]:
        """Number of observed entries of each image."""
        return np.diff(self.offsets_N1)

    def select(
        self, image_ids_M: npt.NDArray[np.uint64], shards: Sequence[str] | None = None
    ) -> LabelTable:
        """Build the table of the given images, in the given order.

        Args:
            image_ids_M: uint64 ids; an image that the table does not hold becomes a row without
                labels.
            shards: name of the tar of each image; none by default.
        """
        counts_M, positions_E = positions_of(self.offsets_N1, self.rows_of(image_ids_M))
        return LabelTable(
            image_ids_N=image_ids_M,
            offsets_N1=offsets_of(counts_M),
            classes_E=self.classes_E[positions_E],
            states_E=self.states_E[positions_E],
            shards=[""] * len(image_ids_M) if shards is None else list(shards),
        )

    def rows_of(self, image_ids_B: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Look up the row of each id (int64), -1 where the table does not hold it."""
        return self._index.rows_of(image_ids_B)

    def entries(self) -> Observed:
        """List the observed entries of all images, ordered by row, positives first."""
        return Observed(
            rows_E=np.repeat(np.arange(len(self)), self.counts_N),
            classes_E=self.classes_E.astype(np.int64),
            states_E=self.states_E,
        )

    def observed(self, rows_B: npt.NDArray[np.integer]) -> Observed:
        """List the observed entries of a batch of rows, in that order; row -1 has none."""
        counts_B, positions_E = positions_of(self.offsets_N1, rows_B)
        return Observed(
            rows_E=np.repeat(np.arange(len(counts_B)), counts_B),
            classes_E=self.classes_E[positions_E].astype(np.int64),
            states_E=self.states_E[positions_E],
        )

    def dense(self, rows_B: npt.NDArray[np.integer], num_classes: int) -> npt.NDArray[np.int8]:
        """Build dense int8 labels (B, K) in {+1, 0, -1}; for tests and small data."""
        labels_BK = np.full((len(rows_B), num_classes), UNOBSERVED, np.int8)
        observed = self.observed(rows_B)
        labels_BK[observed.rows_E, observed.classes_E] = observed.states_E
        return labels_BK

    def count_per_class(self, num_classes: int) -> tuple[npt.NDArray[np.int64], ...]:
        """Count the labels of each class: (positives_K, negatives_K), int64."""
        is_positive_E = self.states_E == POSITIVE
        return (
            np.bincount(self.classes_E[is_positive_E], minlength=num_classes),
            np.bincount(self.classes_E[~is_positive_E], minlength=num_classes),
        )

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write the Parquet file atomically; return its sha256 (equal input, equal bytes)."""
        is_positive_E = self.states_E == POSITIVE
        columns = [
            format_id_column(self.image_ids_N),
            self._list_column(is_positive_E),
            self._list_column(~is_positive_E),
            pa.array(self.shards, pa.string()),
        ]
        return write_table(pa.table(columns, schema=SCHEMA), path)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LabelTable:
        """Read a label table.

        Raises:
            InputError: the file is missing or is not a label table.
        """
        ids, counts, classes, signs = map(Column, (np.uint64, np.int32, np.uint16, np.bool_))
        shards: list[str] = []
        for rows in read_parts(path, SCHEMA, kind=_KIND, fix=how_to_repair(path)):
            with as_input_error(path, kind=_KIND, fix=how_to_repair(path)):
                ids.add(parse_image_ids(rows["image_id"].combine_chunks()))
            for column, part in zip((counts, classes, signs), _entries_of(rows), strict=True):
                column.add(part)
            shards += decoded(rows["shard"])
        return cls(
            image_ids_N=ids.whole(),
            offsets_N1=offsets_of(counts.whole()),
            classes_E=classes.whole(),
            states_E=signs.whole().view(np.int8),  # True is POSITIVE
            shards=shards,
        )

    @functools.cached_property
    def _index(self) -> IdIndex:
        return IdIndex(self.image_ids_N)

    def _list_column(self, chosen_E: npt.NDArray[np.bool_]) -> pa.Array:
        offsets = pa.array(offsets_of(chosen_E.astype(np.int8))[self.offsets_N1].astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(self.classes_E[chosen_E], pa.uint16()))


def offsets_of(counts_N: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Compute the first entry of each row and, one further, the end of the last one."""
    offsets_N1 = np.zeros(len(counts_N) + 1, np.int64)
    np.cumsum(counts_N, out=offsets_N1[1:])
    return offsets_N1


def positions_of(
    offsets_N1: npt.NDArray[np.int64], rows_B: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find (counts_B, positions_E): how many entries each row has, and where; row -1 has none."""
    is_row_B = rows_B >= 0
    starts_B, counts_B = np.zeros((2, len(rows_B)), np.int64)
    starts_B[is_row_B] = offsets_N1[rows_B[is_row_B]]
    counts_B[is_row_B] = offsets_N1[rows_B[is_row_B] + 1] - starts_B[is_row_B]
    positions_E = np.repeat(starts_B - offsets_of(counts_B)[:-1], counts_B)
    positions_E += np.arange(len(positions_E))
    return counts_B, positions_E


def _entries_of(rows: pa.Table) -> tuple[npt.NDArray[Any], ...]:
    """Convert two columns of lists: (entries per row, classes_E, is_positive_E)."""
    columns = [rows[name].combine_chunks() for name in ("positives", "negatives")]
    counts_N2 = np.stack([pc.list_value_length(column).to_numpy() for column in columns], 1)
    is_positive_E = np.repeat(np.tile([True, False], len(rows)), counts_N2.ravel())
    classes_E = np.empty(len(is_positive_E), np.uint16)
    for column, chosen_E in zip(columns, (is_positive_E, ~is_positive_E), strict=True):
        classes_E[chosen_E] = column.flatten().to_numpy()
    return counts_N2.sum(1, dtype=np.int32), classes_E, is_positive_E
