"""Read and write `quarantine.parquet`: every image and annotation row set aside, with the reason.

Nothing is dropped silently: what could not be used is a row of this table, and `--retry-failed`
looks again for the images in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from sharding.errors import REPEAT_COMMAND
from sharding.image_ids import LENGTH
from sharding.openimages.row_status import RejectedRow
from sharding.shards.task import ShardOutcome
from sharding.sources.named import image_id_of
from sharding.storage.parquet import read_table, write_table

COLUMNS = ("image_id", "split", "source", "reason")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])

_ID = re.compile(f"[0-9a-f]{{{LENGTH}}}")
_ROW_SOURCE = re.compile(r".*:\d+", re.DOTALL)


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class Entry:
    """Describe one image or annotation row that was set aside.

    Attributes:
        split: "train", "validation" or "test".
        image_id: as written, which for a bad annotation row may be no id at all.
        source: file or URL of the image, or ``file:row`` of an annotation.
        reason: one line.
    """

    split: str
    image_id: str
    source: str
    reason: str

    @property
    def is_row(self) -> bool:
        """Tell an annotation row, whose source ends in a line number, from an image."""
        return _ROW_SOURCE.fullmatch(self.source) is not None

    @property
    def mentioned(self) -> list[str]:
        """Ids of the images that it may be about: as written, or of the file that is named."""
        if not self.is_row:
            return [self.image_id]
        written = _ID.findall(f"{self.image_id} {self.reason}".lower())
        # VOC names its images without an ending.
        return [*written, *map(image_id_of, (self.image_id, f"{self.image_id}.jpg"))]


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """Hold the table; its entries are sorted and distinct, so that equal content is equal bytes."""

    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", tuple(sorted(set(self.entries))))

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def of_rejected_rows(cls, split: str, rows: Iterable[RejectedRow]) -> Quarantine:
        """List the rejected rows of an annotation file."""
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

    @classmethod
    def of_outcomes(cls, outcomes: Iterable[ShardOutcome]) -> Quarantine:
        """List the images that could not be used when shards were written."""
        return cls(
            entries=tuple(
                Entry(
                    image_id=failure.image_id,
                    split=outcome.split,
                    source=failure.source,
                    reason=failure.reason,
                )
                for outcome in outcomes
                for failure in outcome.failures
            )
        )

    def merged(self, *others: Quarantine) -> Quarantine:
        """Combine the entries of this table and of others."""
        return Quarantine(
            entries=self.entries + tuple(e for other in others for e in other.entries)
        )

    def rows(self) -> Quarantine:
        """Select the annotation rows."""
        return Quarantine(entries=tuple(e for e in self.entries if e.is_row))

    def images(self) -> Quarantine:
        """Select the images."""
        return Quarantine(entries=tuple(e for e in self.entries if not e.is_row))

    def image_ids(self, split: str) -> frozenset[str]:
        """Collect the ids set aside in a split."""
        return frozenset(entry.image_id for entry in self.entries if entry.split == split)

    def without_images(self, split: str, image_ids: Iterable[str]) -> Quarantine:
        """Drop the images named, which were recovered; rows about them stay rejected."""
        recovered = {(split, image_id) for image_id in image_ids}
        return Quarantine(
            entries=tuple(
                e for e in self.entries if e.is_row or (e.split, e.image_id) not in recovered
            )
        )

    def without_ids(self, image_ids: frozenset[str]) -> Quarantine:
        """Drop everything about images that were taken down, in any split."""
        if not image_ids:
            return self
        entries = (e for e in self.entries if image_ids.isdisjoint(e.mentioned))
        return Quarantine(entries=tuple(entries))

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write the Parquet file atomically; return its SHA-256."""
        columns = {name: [getattr(e, name) for e in self.entries] for name in COLUMNS}
        return write_table(pa.table(columns, schema=SCHEMA), path)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Quarantine:
        """Read the Parquet file.

        Raises:
            InputError: it is missing or not a quarantine table.
        """
        table = read_table(path, SCHEMA, kind="quarantine table", fix=REPEAT_COMMAND)
        return cls(entries=tuple(Entry(**row) for row in table.to_pylist()))
