"""`quarantine.parquet`: every image and annotation row that was set aside, and why.

Nothing is dropped in silence: what could not be used is a row here, and the next run with
`--retry-failed` starts from it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sharding.errors import InputError
from sharding.openimages.row_status import RejectedRow
from sharding.shards.task import ShardOutcome
from sharding.storage.files import replacing

COLUMNS = ("image_id", "split", "source", "reason")

SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])

_OF_A_ROW = re.compile(r".*:\d+", re.DOTALL)


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class Entry:
    """One thing set aside.

    Attributes:
        image_id: as written, which for a bad annotation row may be no id at all.
        split: "train", "validation" or "test".
        source: file or URL of the image, or ``file:row`` of an annotation.
        reason: one line.
    """

    split: str
    image_id: str
    source: str
    reason: str

    @property
    def is_row(self) -> bool:
        """Whether it is an annotation row and no image: its source ends in a line number."""
        return _OF_A_ROW.fullmatch(self.source) is not None


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """The table; its entries are sorted and distinct, so equal content gives equal bytes."""

    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", tuple(sorted(set(self.entries))))

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def of_rejected_rows(cls, split: str, rows: Iterable[RejectedRow]) -> Quarantine:
        """The bad rows of an annotation file."""
        return cls(
            entries=tuple(
                Entry(
                    image_id=row.image_id,
                    split=split,
                    source=f"{row.file}:{row.row}",
                    reason=row.reason,
                )
                for row in rows
            )
        )

    def merged(self, *others: Quarantine) -> Quarantine:
        """All entries of this table and of the others."""
        return Quarantine(
            entries=self.entries + tuple(e for other in others for e in other.entries)
        )

    def rows(self) -> Quarantine:
        """The annotation rows alone."""
        return Quarantine(entries=tuple(e for e in self.entries if e.is_row))

    def images(self) -> Quarantine:
        """The images alone."""
        return Quarantine(entries=tuple(e for e in self.entries if not e.is_row))

    def image_ids(self, split: str) -> frozenset[str]:
        """The ids set aside in a split."""
        return frozenset(entry.image_id for entry in self.entries if entry.split == split)

    def without_images(self, split: str, image_ids: Iterable[str]) -> Quarantine:
        """What remains after the images named were recovered; rows about them stay bad."""
        recovered = {(split, image_id) for image_id in image_ids}
        return Quarantine(
            entries=tuple(
                e for e in self.entries if e.is_row or (e.split, e.image_id) not in recovered
            )
        )

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write the Parquet file atomically; return its sha256."""
        columns = {name: [getattr(e, name) for e in self.entries] for name in COLUMNS}
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
            return hashlib.sha256(temporary.read_bytes()).hexdigest()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Quarantine:
        """Read the Parquet file.

        Raises:
            InputError: it is missing or not a quarantine table.
        """
        fix = "run jobs/verify_dataset.py --repair"
        try:
            table = pq.read_table(Path(path), columns=list(COLUMNS)).cast(SCHEMA)
            return cls(entries=tuple(Entry(**row) for row in table.to_pylist()))
        except FileNotFoundError:
            raise InputError("quarantine table is missing", file=path, fix=fix) from None
        except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"not a quarantine table ({reason})", file=path, fix=fix) from None


def quarantine_of(outcomes: Iterable[ShardOutcome]) -> Quarantine:
    """The images that could not be used."""
    return Quarantine(
        entries=tuple(
            Entry(
                image_id=failure.image_id,
                split=outcome.name.rpartition("-")[0],
                source=failure.source,
                reason=failure.reason,
            )
            for outcome in outcomes
            for failure in outcome.failures
        )
    )


def merged_failures(
    old: Quarantine, tried: Mapping[str, Sequence[str]], failures: Quarantine
) -> Quarantine:
    """The table after images were tried again: recovered ones are gone, reasons are fresh."""
    for split, image_ids in tried.items():
        old = old.without_images(split, image_ids)
    return old.merged(failures)
