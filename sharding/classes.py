"""Define the class table: classes keyed by MID, indexed by line, in five groups by count."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sharding.errors import REPEAT_COMMAND, InputError
from sharding.storage.parquet import as_input_error, read_table, write_table

MID = re.compile(r"/[mg]/[0-9a-z_]+")
"""Key of a class: a Freebase or Knowledge Graph id, or one of the same shape."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
NUM_GROUPS = 5
GroupBy = Literal["annotations", "positives"]

SCHEMA = pa.schema(
    [
        ("index", pa.uint16()),
        ("mid", pa.string()),
        ("name", pa.string()),
        ("positives", pa.int64()),
        ("negatives", pa.int64()),
        ("group", pa.uint8()),
    ]
)


def assign_groups(counts_K: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Cut classes into groups 1..5 of equal size by ascending count; ties by class index.

    Source: the authors' project page (classes sorted in ascending order by the number of
    annotations in the training set, five groups of equal size). Where K is not a multiple of
    five the first groups hold one class more.
    """
    order_K = np.argsort(counts_K, kind="stable")
    groups_K = np.empty(len(counts_K), np.uint8)
    for number, members in enumerate(np.array_split(order_K, NUM_GROUPS), start=1):
        groups_K[members] = number
    return groups_K


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """K classes in the order of the trainable list.

    Attributes:
        mids: Freebase MIDs; the index of a class is its position (line number in the list).
        names: display names; not unique (52 names are shared in Open Images V3).
        positives_K, negatives_K: int64 human-verified counts in the full training dump.
        groups_K: uint8 in 1..5.
    """

    mids: Sequence[str]
    names: Sequence[str]
    positives_K: npt.NDArray[np.int64]
    negatives_K: npt.NDArray[np.int64]
    groups_K: npt.NDArray[np.uint8]
    index_of: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        columns = (self.names, self.positives_K, self.negatives_K, self.groups_K)
        if any(len(column) != len(self.mids) for column in columns):
            raise ValueError("class table columns differ in length")
        object.__setattr__(self, "index_of", {mid: i for i, mid in enumerate(self.mids)})
        if len(self.index_of) != len(self.mids):
            raise ValueError("class list repeats a MID")
        for mid, name in zip(self.mids, self.names, strict=True):
            if not MID.fullmatch(mid) or _CONTROL.search(name):
                raise InputError(
                    f"{mid!r:.80}, {name!r:.80}: no MID, or a name with control characters",
                    fix="mend it in the class list",
                )

    def __len__(self) -> int:
        return len(self.mids)

    @property
    def group_by(self) -> GroupBy:
        """Counts that the groups follow; "positives" unless they follow the annotations."""
        by_annotations_K = assign_groups(self.positives_K + self.negatives_K)
        return "annotations" if np.array_equal(self.groups_K, by_annotations_K) else "positives"

    @property
    def grouped_counts_K(self) -> npt.NDArray[np.int64]:
        """Counts that the groups were cut by (int64)."""
        if self.group_by == "positives":
            return self.positives_K
        return self.positives_K + self.negatives_K

    @property
    def sha256(self) -> str:
        """Hash of the ordered MIDs: the identity of the class list everywhere."""
        return hashlib.sha256("\n".join(self.mids).encode()).hexdigest()

    @classmethod
    def build(
        cls,
        mids: Sequence[str],
        names: Sequence[str],
        positives_K: npt.NDArray[np.int64],
        negatives_K: npt.NDArray[np.int64],
        *,
        group_by: GroupBy = "annotations",
    ) -> ClassTable:
        """Build the table, its groups cut by ``group_by`` counts and frozen with it."""
        counts_K = positives_K + negatives_K if group_by == "annotations" else positives_K
        return cls(
            mids=list(mids),
            names=list(names),
            positives_K=positives_K,
            negatives_K=negatives_K,
            groups_K=assign_groups(counts_K),
        )

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write `classes.parquet` atomically; return its SHA-256."""
        columns = {
            "index": np.arange(len(self), dtype=np.uint16),
            "mid": list(self.mids),
            "name": list(self.names),
            "positives": self.positives_K,
            "negatives": self.negatives_K,
            "group": self.groups_K,
        }
        return write_table(pa.table(columns, schema=SCHEMA), path, compression="snappy")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ClassTable:
        """Read `classes.parquet`.

        Raises:
            InputError: it is missing or not a class table.
        """
        kind, fix = "class table", REPEAT_COMMAND
        table = read_table(path, SCHEMA, kind=kind, fix=fix, nulls=False)
        columns = {name: table[name].to_numpy() for name in SCHEMA.names}
        with as_input_error(path, kind=kind, fix=fix):
            if not np.array_equal(columns["index"], np.arange(len(table))):
                raise ValueError("its rows are not in the order of their index")
            groups_K = columns["group"]
            if ((groups_K < 1) | (groups_K > NUM_GROUPS)).any():
                raise ValueError(f"a group that is not 1 to {NUM_GROUPS}")
            return cls(
                mids=table["mid"].to_pylist(),
                names=table["name"].to_pylist(),
                positives_K=columns["positives"],
                negatives_K=columns["negatives"],
                groups_K=groups_K,
            )
