"""The one definition of tri-state labels, and their sparse table.

A class of an image is POSITIVE (a human saw it), NEGATIVE (a human looked and it is absent) or
UNOBSERVED (nobody looked). Other encodings (single-positive repositories, IMCL) are converted
where they enter. A label table stores only what was observed, as class indices; the dense matrix
is made per batch, on the training device.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sharding.errors import InputError
from sharding.image_ids import format_id_column, parse_image_ids
from sharding.storage.files import replacing

POSITIVE = 1
NEGATIVE = 0
UNOBSERVED = -1

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
    """The observed entries of a batch as flat arrays of equal length E.

    ``rows_E`` int64 position in the batch, ``classes_E`` int64, ``states_E`` int8 in {+1, 0}.
    """

    rows_E: npt.NDArray[np.int64]
    classes_E: npt.NDArray[np.int64]
    states_E: npt.NDArray[np.int8]


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
        positive_lists = [sorted(row) for row in positives]
        negative_lists = [sorted(row) for row in negatives]
        lengths = [len(p) + len(n) for p, n in zip(positive_lists, negative_lists, strict=True)]
        classes, states = [], []
        for p, n in zip(positive_lists, negative_lists, strict=True):
            classes += [*p, *n]
            states += [POSITIVE] * len(p) + [NEGATIVE] * len(n)
        return cls(
            image_ids_N=parse_image_ids(image_ids),
            offsets_N1=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            classes_E=np.array(classes, np.uint16),
            states_E=np.array(states, np.int8),
            shards=list(shards) if shards is not None else [""] * len(lengths),
        )

    def select(self, rows_M: npt.NDArray[np.integer], shards: Sequence[str]) -> LabelTable:
        """The rows named, in the order named; row -1 yields an image without any label.

        ``shards`` gives the new shard names, one per selected row; ids of -1 rows are 0.
        """
        rows = np.asarray(rows_M, np.int64)
        lengths, entries = self._entries(rows)
        ids = np.zeros(len(rows), np.uint64)
        ids[rows >= 0] = self.image_ids_N[rows[rows >= 0]]
        return LabelTable(
            image_ids_N=ids,
            offsets_N1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            classes_E=self.classes_E[entries],
            states_E=self.states_E[entries],
            shards=list(shards),
        )

    def rows_of(self, image_ids_B: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Row of each id, -1 where the table does not hold it."""
        order, sorted_ids = self._index()
        slots = np.searchsorted(sorted_ids, image_ids_B)
        slots = np.minimum(slots, max(len(self) - 1, 0))
        if not len(self):
            return np.full(len(image_ids_B), -1, np.int64)
        return np.where(sorted_ids[slots] == image_ids_B, order[slots], -1)

    def observed(self, rows_B: npt.NDArray[np.integer]) -> Observed:
        """The observed entries of the rows named, in that order; row -1 has none."""
        lengths, entries = self._entries(np.asarray(rows_B, np.int64))
        return Observed(
            rows_E=np.repeat(np.arange(len(lengths)), lengths),
            classes_E=self.classes_E[entries].astype(np.int64),
            states_E=self.states_E[entries],
        )

    def dense(self, rows_B: npt.NDArray[np.integer], num_classes: int) -> npt.NDArray[np.int8]:
        """Dense int8 labels (B, K) in {+1, 0, -1}; for tests and small data."""
        labels_BK = np.full((len(rows_B), num_classes), UNOBSERVED, np.int8)
        observed = self.observed(rows_B)
        labels_BK[observed.rows_E, observed.classes_E] = observed.states_E
        return labels_BK

    def count_per_class(self, num_classes: int) -> tuple[npt.NDArray[np.int64], ...]:
        """(positives_K, negatives_K), int64."""
        positive = self.states_E == POSITIVE
        return (
            np.bincount(self.classes_E[positive], minlength=num_classes),
            np.bincount(self.classes_E[~positive], minlength=num_classes),
        )

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write the Parquet file atomically; return its sha256 (equal input, equal bytes)."""
        positive = self.states_E == POSITIVE
        table = pa.table(
            [
                format_id_column(self.image_ids_N),
                self._list_column(positive),
                self._list_column(~positive),
                pa.array(self.shards, pa.string()),
            ],
            schema=SCHEMA,
        )
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
            return hashlib.sha256(temporary.read_bytes()).hexdigest()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LabelTable:
        """Read a label table.

        Raises:
            InputError: the file is missing or is not a label table.
        """
        try:
            table = pq.read_table(path, columns=SCHEMA.names).cast(SCHEMA)
            if any(column.null_count for column in table.columns):
                raise InputError("it holds nulls")
            image_ids_N = parse_image_ids(table["image_id"].combine_chunks())
        except FileNotFoundError:
            raise InputError(
                "label table is missing", file=path, fix="run the shard or re-shard job again"
            ) from None
        except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, OSError, InputError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"not a label table ({reason})",
                file=path,
                fix="run jobs/verify_dataset.py --repair",
            ) from None
        columns = [table[name].combine_chunks() for name in ("positives", "negatives")]
        offsets, classes, states = _interleave(columns)
        # Few distinct names over many rows: decode codes, not text.
        names = table["shard"].combine_chunks().dictionary_encode()
        words = names.dictionary.to_pylist()
        return cls(
            image_ids_N=image_ids_N,
            offsets_N1=offsets,
            classes_E=classes,
            states_E=states,
            shards=[words[code] for code in names.indices.to_pylist()],
        )

    def _entries(
        self, rows_B: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(lengths_B, positions_E): how many entries each row has, and where they lie."""
        known = rows_B >= 0
        starts, lengths = np.zeros((2, len(rows_B)), np.int64)
        starts[known] = self.offsets_N1[rows_B[known]]
        lengths[known] = self.offsets_N1[rows_B[known] + 1] - starts[known]
        ends = np.cumsum(lengths)
        positions = np.repeat(starts - ends + lengths, lengths)
        positions += np.arange(len(positions))
        return lengths, positions

    def _list_column(self, chosen_E: npt.NDArray[np.bool_]) -> pa.Array:
        running = np.concatenate([[0], np.cumsum(chosen_E)])
        offsets = pa.array(running[self.offsets_N1].astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(self.classes_E[chosen_E], pa.uint16()))

    def _index(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        cached = self.__dict__.get("_sorted")
        if cached is None:
            order = np.argsort(self.image_ids_N, kind="stable")
            cached = (order, self.image_ids_N[order])
            object.__setattr__(self, "_sorted", cached)
        return cached


def _interleave(
    columns: Sequence[pa.ListArray],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16], npt.NDArray[np.int8]]:
    """(offsets_N1, classes_E, states_E) of the list columns of positives and negatives."""
    counts = np.stack([pc.list_value_length(column).to_numpy() for column in columns])
    offsets = np.concatenate([[0], np.cumsum(counts.sum(0, dtype=np.int64))]).astype(np.int64)
    classes = np.empty(offsets[-1], np.uint16)
    states = np.empty(offsets[-1], np.int8)
    begin = offsets[:-1]
    for column, count, state in zip(columns, counts, (POSITIVE, NEGATIVE), strict=True):
        part = column.flatten().to_numpy()
        shift = begin - np.concatenate([[0], np.cumsum(count, dtype=np.int64)])[:-1]
        target = np.arange(len(part)) + np.repeat(shift, count)
        classes[target], states[target] = part, state
        begin = begin + count
    return offsets, classes, states
