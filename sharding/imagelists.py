"""What the image lists of a dump say of a split: images that nobody annotated, and licences.

59 % of V3's training images are in no shard, since nothing could be learnt from them; the report
says how many they are.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharding.annotations import SplitLabels
from sharding.dumpfiles import DumpFile
from sharding.labels import LabelTable
from sharding.layouts import ALL_SPLITS_LIST
from sharding.releases import Dump
from sharding.rotation import read_listed

LICENSE = "license "
"""Begins the keys of the report that count labelled images by licence."""
MOST_LICENSES = 20


def with_listed(dump: Dump, split: str, labels: SplitLabels) -> SplitLabels:
    """The labels of a split, their report with what the split's image list says of them.

    ``listed`` counts the images of the list, ``listed_without_rows`` those that no row of the
    annotations names, ``license NAME`` the others by licence, the most frequent ones by name;
    all are absent where the dump has no list.

    Raises:
        InputError: the list is damaged.
    """
    file = dump.images_file(split)
    if file is None:
        return labels
    listed = without = 0
    licenses: Counter[str] = Counter()
    for rows_B, batch in listed_rows(file, split, labels.table, ("License",)):
        listed += len(rows_B)
        without += int(np.count_nonzero(rows_B < 0))
        named = batch.column("License").filter(pa.array(rows_B >= 0)).drop_null()
        for found in named.value_counts().to_pylist():
            name = found["values"].decode(errors="replace").strip()
            licenses[name or "not said"] += found["counts"]
    report = {**labels.report, "listed": listed, "listed_without_rows": without}
    by_number = licenses.most_common()
    report |= {f"{LICENSE}{name}": number for name, number in by_number[:MOST_LICENSES]}
    if rare := sum(number for _, number in by_number[MOST_LICENSES:]):
        report[f"{LICENSE}of other names"] = rare
    return dataclasses.replace(labels, report=report)


def listed_rows(
    file: DumpFile, split: str, table: LabelTable, optional: Sequence[str]
) -> Iterator[tuple[npt.NDArray[np.int64], pa.RecordBatch]]:
    """What a list says of a split, block by block: rows of the table, -1 for others, and columns.

    Raises:
        InputError: the list is damaged.
    """
    of_all = file.name.startswith(ALL_SPLITS_LIST)
    for keys_B, batch in read_listed(file, ("Subset",) if of_all else (), optional):
        if of_all:
            ours_B = pc.equal(batch.column("Subset"), split.encode())
            keys_B, batch = keys_B[np.asarray(ours_B)], batch.filter(ours_B)
        yield table.rows_of(keys_B), batch
