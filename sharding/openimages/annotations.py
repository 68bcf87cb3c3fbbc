"""Annotation rows in, one label table per split out, and an account of every row on the way.

A file that is missing, cut off or has another header stops everything. A bad *row* is counted and
listed and labels nothing, unless the policy is strict. Every row of a file has exactly one fate in
the report: it became a label, or it is counted under the reason why not.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sharding.errors import InputError
from sharding.labels import POSITIVE, LabelTable
from sharding.openimages.conflicts import CONFLICTS, Conflict, human_counts, resolve, unpack
from sharding.openimages.csv_reader import LabelCsv
from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.row_status import (
    BROKEN,
    FATES,
    FIXES,
    LABEL,
    MOST_LISTED,
    UNKNOWN,
    Judged,
    RejectedRow,
    broken_rows,
    judge,
    rejected_rows,
)
from sharding.openimages.vocabulary import SOURCES, Vocabulary, count_words

# What a row can end as; each row ends as exactly one of them.
ROW_FATES = (
    "positives",
    "negatives",
    "duplicates",
    "conflict_dropped",
    "machine_overruled",
    *FATES[1:],
    BROKEN,
)


@dataclass(frozen=True, kw_only=True)
class AnnotationPolicy:
    """How rows become labels; recorded in the manifest.

    Attributes:
        conflict: what humans who disagree yield, see `sharding.openimages.conflicts.resolve`.
        machine: machine labels of at least this confidence count as positives where no human
            looked; None ignores machine labels.
        strict: the first bad row is an error instead of a count.
    """

    conflict: Conflict = "unobserved"
    machine: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.conflict not in CONFLICTS:
            raise InputError(
                f"unknown conflict policy {self.conflict!r}",
                fix=f"choose from {', '.join(CONFLICTS)}",
            )
        if self.machine is not None and not 0 < self.machine <= 1:
            raise InputError(
                f"machine threshold {self.machine} is not in (0, 1]", fix="V3's lie in [0.5, 1]"
            )

    def record(self) -> dict[str, object]:
        """As the manifest stores it."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class SplitLabels:
    """The labels of one split of a dump, and the account of its rows.

    Attributes:
        table: ordered by image id; images whose rows all named classes outside the list are
            there without labels.
        report: counts. ``rows`` is the sum of `ROW_FATES`; beside them ``conflicts`` (pairs of
            image and class), ``images``, ``images_without_labels``, and ``source NAME`` for every
            known source.
        unknown_mids: rows per MID outside the class list, by descending count.
        rejected_rows: the first `MOST_LISTED` of them.
        sources: sha256 of every file read, by folder and name.
        human_positives_K, human_negatives_K: int64 labels per class that a human or one of our
            exports gave; what groups are cut by, also where machine labels fill the table.
    """

    table: LabelTable
    report: Mapping[str, int]
    unknown_mids: Mapping[str, int]
    rejected_rows: tuple[RejectedRow, ...]
    sources: Mapping[str, str]
    human_positives_K: npt.NDArray[np.int64]
    human_negatives_K: npt.NDArray[np.int64]


def read_split(
    dump: Dump, split: str, mids: Sequence[str], policy: AnnotationPolicy | None = None
) -> SplitLabels:
    """Read the labels of one split, as indices into ``mids``.

    Raises:
        InputError: a file is missing, damaged or has another header; under a strict policy the
            first bad row. A well-formed MID outside ``mids`` is never an error: a quarter of
            V3's rows name one.
    """
    policy = policy or AnnotationPolicy()
    if len(mids) > np.iinfo(np.uint16).max:
        raise InputError(f"{len(mids)} classes are too many", fix="use a list of at most 65,535")
    files = list(dump.annotation_files(split))
    if policy.machine is not None:
        files.append(dump.machine_file(split))
    reader = _SplitReader(mids, policy)
    for file in files:
        reader.read(file)
    return reader.finish()


class _SplitReader:
    """Accumulates the rows of the files of one split: 8 bytes a row, 8 a run of one image."""

    def __init__(self, mids: Sequence[str], policy: AnnotationPolicy) -> None:
        self._policy = policy
        self._num_classes = len(mids)
        self._vocabulary = Vocabulary(mids)
        self._num_runs = 0
        self._runs: list[npt.NDArray[np.uint64]] = []
        self._owners: list[npt.NDArray[np.int32]] = []
        self._codes: list[npt.NDArray[np.int32]] = []
        names = (*FATES[1:], BROKEN, *(f"source {source}" for source in SOURCES))
        self._counts: Counter[str] = Counter(dict.fromkeys(names, 0))
        self._unknown_mids: Counter[bytes] = Counter()
        self._rejected_rows: list[RejectedRow] = []
        self._sources: dict[str, str] = {}

    def read(self, file: DumpFile) -> None:
        """Add all rows of a file."""
        ordinal = 0
        with file.open() as stream:
            rows = LabelCsv(stream, str(file))
            for batch in rows.batches():
                judged = judge(batch, self._vocabulary, self._policy.machine)
                self._keep(judged)
                self._count(judged, batch)
                self._list(
                    broken_rows(rows, file) + rejected_rows(judged, batch, rows, ordinal, file)
                )
                ordinal += len(batch)
            self._list(broken_rows(rows, file))
            self._counts[BROKEN] += rows.num_broken
        self._sources[file.short_name] = rows.sha256

    def finish(self) -> SplitLabels:
        """Resolve duplicates and conflicts; build the table."""
        runs = np.concatenate([np.empty(0, np.uint64), *self._runs])
        codes_E = np.concatenate([np.empty(0, np.int32), *self._codes])
        owners_E = np.concatenate([np.empty(0, np.int32), *self._owners])
        self._runs, self._codes, self._owners = [], [], []
        image_ids_N, image_of_run = np.unique(runs, return_inverse=True)
        entries_M, resolved = resolve(image_of_run[owners_E], codes_E, self._policy.conflict)
        human_positives_K, human_negatives_K = human_counts(entries_M, self._num_classes)
        table = LabelTable.from_entries(image_ids_N, *unpack(entries_M))
        positives = int(np.count_nonzero(table.states_E == POSITIVE))
        report = {
            "positives": positives,
            "negatives": len(table.states_E) - positives,
            **resolved,
            **self._counts,
            "images": len(table),
            "images_without_labels": int(np.count_nonzero(table.counts_N == 0)),
        }
        return SplitLabels(
            table=table,
            report={"rows": sum(report[fate] for fate in ROW_FATES), **report},
            unknown_mids={mid.decode(): n for mid, n in self._unknown_mids.most_common()},
            rejected_rows=tuple(self._rejected_rows),
            sources=self._sources,
            human_positives_K=human_positives_K,
            human_negatives_K=human_negatives_K,
        )

    def _keep(self, judged: Judged) -> None:
        """Remember the labels, and the images even of rows outside the class list."""
        present = judged.fates_N <= UNKNOWN
        keys = judged.keys_N[present]
        if not len(keys):
            return
        starts = np.concatenate([[True], keys[1:] != keys[:-1]])
        owners = np.cumsum(starts, dtype=np.int32) + np.int32(self._num_runs - 1)
        labels = judged.fates_N[present] == LABEL
        self._runs.append(keys[starts])
        self._num_runs += int(np.count_nonzero(starts))
        self._owners.append(owners[labels])
        self._codes.append(judged.codes_N[present][labels])

    def _count(self, judged: Judged, batch: pa.RecordBatch) -> None:
        fates = np.bincount(judged.fates_N, minlength=len(FATES)).tolist()
        self._counts.update(dict(zip(FATES[1:], fates[1:], strict=True)))
        for name, number in count_words(batch.column("Source")).items():
            if name.decode(errors="replace") in SOURCES:
                self._counts[f"source {name.decode()}"] += number
        outside = judged.fates_N == UNKNOWN
        if outside.any():
            labels = batch.column("LabelName").filter(pa.array(outside))
            self._unknown_mids.update(count_words(labels))

    def _list(self, found: list[RejectedRow]) -> None:
        for bad in sorted(found, key=lambda bad: bad.row):
            if self._policy.strict:
                fix = FIXES[bad.reason.split(":")[0]]
                raise InputError(bad.reason, file=bad.file, row=bad.row, fix=fix)
            if len(self._rejected_rows) < MOST_LISTED:
                self._rejected_rows.append(bad)
