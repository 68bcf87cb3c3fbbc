"""Read the annotation rows of a split into a label table, and count what each row became.

A file that is missing, cut off or has another header is an error. A malformed *row* is counted
and listed and labels nothing, unless the policy is strict. Every row of a file has exactly one
outcome in the report: it became a label, or it is counted under the reason why not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sharding.errors import InputError, unknown
from sharding.image_ids import IdIndex, Ids
from sharding.labels import POSITIVE, LabelTable
from sharding.openimages.conflicts import CONFLICTS, Conflict, human_counts, resolve, unpack
from sharding.openimages.csv_reader import LabelCsv
from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.row_status import (
    MOST_LISTED,
    SOURCES,
    ClassifiedRows,
    RejectedRow,
    RowStatus,
    classify,
    count_words,
    rejected_line,
    rejected_rows,
)
from sharding.progress import say

_NO_IDS = np.empty(0, np.uint64)
_OTHER_OUTCOMES = tuple(status.key for status in RowStatus if status != RowStatus.LABEL)
ROW_OUTCOMES = (
    "positives",
    "negatives",
    "duplicates",
    "conflict_dropped",
    "machine_overruled",
    *_OTHER_OUTCOMES,
)
"""Keys of the report; each row is counted under exactly one of them; one may be missing for 0."""


@dataclass(frozen=True, kw_only=True)
class AnnotationPolicy:
    """How rows become labels; recorded in the manifest.

    Attributes:
        conflict: what becomes of rows of humans who disagree
            (`sharding.openimages.conflicts.resolve`).
        machine: machine labels of at least this confidence count as positives where no human
            looked; None ignores machine labels.
        strict: the first malformed row is an error instead of a count.
    """

    conflict: Conflict = "unobserved"
    machine: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.conflict not in CONFLICTS:
            raise unknown("conflict policy", self.conflict, CONFLICTS)
        if self.machine is not None and not 0 < self.machine <= 1:
            raise InputError(
                f"machine threshold {self.machine} is not in (0, 1]", fix="V3's lie in [0.5, 1]"
            )

    def record(self) -> dict[str, Any]:
        """Convert to what the manifest stores; ``strict`` changes no label."""
        return {"conflict": self.conflict, "machine": self.machine}


@dataclass(frozen=True, kw_only=True)
class SplitLabels:
    """The labels of one split of a dump, with counts of its rows.

    Attributes:
        table: ordered by image id; images whose rows all name classes outside the list are
            rows without labels.
        report: counts. ``rows`` is the sum of `ROW_OUTCOMES`; further ``conflicts`` (pairs of
            image and class), ``images``, ``images_without_labels``, and ``source NAME`` for every
            known source.
        unknown_mids: rows per MID outside the class list, by descending count.
        rejected_rows: malformed rows, the first `MOST_LISTED`.
        sources: sha256 of every file read, by folder and name.
        human_positives_K, human_negatives_K: int64 labels per class from humans and our own
            exports; groups are cut by them, also where machine labels fill the table.
    """

    table: LabelTable
    report: Mapping[str, int]
    unknown_mids: Mapping[str, int]
    rejected_rows: tuple[RejectedRow, ...]
    sources: Mapping[str, str]
    human_positives_K: npt.NDArray[np.int64]
    human_negatives_K: npt.NDArray[np.int64]


def read_splits(
    dump: Dump,
    mids: Sequence[str],
    policy: AnnotationPolicy | None = None,
    in_tars: Mapping[str, Ids] | None = None,
) -> dict[str, SplitLabels]:
    """Read the labels of every split; an image of several counts in the last of them only.

    Args:
        dump: to read.
        mids: MID of each class.
        policy: how rows become labels.
        in_tars: images that have pixels, by their split: rows of another split are set aside.

    Raises:
        InputError: as `read_split`.
    """
    labels: dict[str, SplitLabels] = {}
    later = np.empty(0, np.uint64)
    for split in reversed(dump.splits):
        say(f"reading the {split} labels of {dump.name}")
        held = [ids_N for other, ids_N in (in_tars or {}).items() if other != split]
        labels[split] = read_split(dump, split, mids, policy, np.concatenate([later, *held]))
        later = np.union1d(later, labels[split].table.image_ids_N)
    return {split: labels[split] for split in dump.splits}


def read_split(
    dump: Dump,
    split: str,
    mids: Sequence[str],
    policy: AnnotationPolicy | None = None,
    elsewhere: Ids = _NO_IDS,
) -> SplitLabels:
    """Read the labels of one split into a table of indices into ``mids``.

    Args:
        dump: that holds the split.
        split: to read.
        mids: MID of each class.
        policy: how rows become labels.
        elsewhere: images of other splits, whose rows are set aside.

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
    reader = _SplitReader(mids, policy, elsewhere)
    for file in files:
        reader.read(file)
    return reader.finish()


class _SplitReader:
    """Accumulate the rows of the files of one split.

    Rows of one image mostly follow each other: memory takes 8 bytes for each such run and 8 for
    each row of a known class.
    """

    def __init__(self, mids: Sequence[str], policy: AnnotationPolicy, elsewhere: Ids) -> None:
        self._policy = policy
        self._elsewhere = IdIndex(elsewhere)
        self._index_of = {mid.encode(): index for index, mid in enumerate(mids)}
        self._num_classes = len(mids)
        self._num_runs = 0
        self._image_ids: list[npt.NDArray[np.uint64]] = []  # of runs
        self._runs: list[npt.NDArray[np.int32]] = []  # of labels
        self._codes: list[npt.NDArray[np.int32]] = []  # of labels
        names = (*_OTHER_OUTCOMES, *(f"source {source}" for source in SOURCES))
        self._counts: Counter[str] = Counter(dict.fromkeys(names, 0))
        self._unknown_mids: Counter[bytes] = Counter()
        self._rejected_rows: list[RejectedRow] = []
        self._sources: dict[str, str] = {}

    def read(self, file: DumpFile) -> None:
        """Add all rows of a file."""
        name = str(file)
        with file.open() as stream:
            lines = LabelCsv(stream, name)
            for batch in lines.batches():
                rows = classify(batch, self._index_of, self._policy.machine, self._elsewhere)
                self._keep(rows)
                self._count(rows, batch)
                self._reject(lines, rejected_rows(rows, batch, lines.lines_of, name), name)
            self._reject(lines, [], name)
            self._counts[RowStatus.BAD_COLUMNS.key] += lines.num_malformed
        self._sources[file.short_name] = lines.sha256

    def finish(self) -> SplitLabels:
        """Resolve duplicates and conflicts, and build the table."""
        image_ids = np.concatenate([np.empty(0, np.uint64), *self._image_ids])
        runs_E = np.concatenate([np.empty(0, np.int32), *self._runs])
        codes_E = np.concatenate([np.empty(0, np.int32), *self._codes])
        self._image_ids, self._runs, self._codes = [], [], []
        image_ids_N, image_of_run = np.unique(image_ids, return_inverse=True)
        entries_M, resolved = resolve(image_of_run[runs_E], codes_E, self._policy.conflict)
        human_positives_K, human_negatives_K = human_counts(entries_M, self._num_classes)
        table = LabelTable.from_entries(image_ids_N, *unpack(entries_M))
        positives = int(np.count_nonzero(table.states_E == POSITIVE))
        if not self._counts[RowStatus.IN_ANOTHER_SPLIT.key]:  # rare, and new in 0.2
            del self._counts[RowStatus.IN_ANOTHER_SPLIT.key]
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
            report={"rows": sum(report.get(outcome, 0) for outcome in ROW_OUTCOMES), **report},
            unknown_mids={mid.decode(): n for mid, n in self._unknown_mids.most_common()},
            rejected_rows=tuple(self._rejected_rows),
            sources=self._sources,
            human_positives_K=human_positives_K,
            human_negatives_K=human_negatives_K,
        )

    def _keep(self, rows: ClassifiedRows) -> None:
        """Keep the labels, and the images even of rows outside the class list."""
        is_kept_N = rows.statuses_N <= RowStatus.UNKNOWN_MID
        image_ids_M = rows.image_ids_N[is_kept_N]
        if not len(image_ids_M):
            return
        starts_M = np.concatenate([[True], image_ids_M[1:] != image_ids_M[:-1]])
        runs_M = np.cumsum(starts_M, dtype=np.int32) + np.int32(self._num_runs - 1)
        is_label_M = rows.statuses_N[is_kept_N] == RowStatus.LABEL
        self._image_ids.append(image_ids_M[starts_M])
        self._num_runs += int(np.count_nonzero(starts_M))
        self._runs.append(runs_M[is_label_M])
        self._codes.append(rows.codes_N[is_kept_N][is_label_M])

    def _count(self, rows: ClassifiedRows, batch: pa.RecordBatch) -> None:
        counts = np.bincount(rows.statuses_N, minlength=len(RowStatus)).tolist()
        self._counts.update(dict(zip(_OTHER_OUTCOMES, counts[1:], strict=True)))
        for source, count in count_words(batch.column("Source")).items():
            if source.decode(errors="replace") in SOURCES:
                self._counts[f"source {source.decode()}"] += count
        is_unknown_N = rows.statuses_N == RowStatus.UNKNOWN_MID
        if is_unknown_N.any():
            unknown = batch.column("LabelName").filter(pa.array(is_unknown_N))
            self._unknown_mids.update(count_words(unknown))

    def _reject(self, lines: LabelCsv, rows: list[RejectedRow], name: str) -> None:
        """List rejected rows and the malformed lines since the last call, in file order."""
        rows += [rejected_line(name, line, text) for line, text in lines.take_malformed()]
        for row in sorted(rows, key=lambda row: row.row):
            if self._policy.strict:
                raise row.as_error()
            if len(self._rejected_rows) < MOST_LISTED:
                self._rejected_rows.append(row)
