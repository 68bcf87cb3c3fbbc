"""How many images the lists of a dump name that nobody annotated: 59 % of V3's training images.

They are in no shard, since nothing could be learnt from them; the report says how many they are.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow.compute as pc

from sharding.annotations import SplitLabels
from sharding.layouts import ALL_SPLITS_LIST
from sharding.releases import Dump
from sharding.rotation import read_listed


def with_listed(dump: Dump, split: str, labels: SplitLabels) -> SplitLabels:
    """The labels of a split, their report with what the split's image list holds beside them.

    ``listed`` counts the images of the list and ``listed_without_rows`` those that no row of the
    annotations names; both are absent where the dump has no list.

    Raises:
        InputError: the list is damaged.
    """
    file = dump.images_file(split)
    if file is None:
        return labels
    of_all = file.name.startswith(ALL_SPLITS_LIST)
    listed = without = 0
    for keys_B, batch in read_listed(file, ("Subset",) if of_all else ()):
        rows_B = labels.table.rows_of(keys_B)
        if of_all:
            rows_B = rows_B[np.asarray(pc.equal(batch.column("Subset"), split.encode()))]
        listed += len(rows_B)
        without += int(np.count_nonzero(rows_B < 0))
    report = {**labels.report, "listed": listed, "listed_without_rows": without}
    return dataclasses.replace(labels, report=report)
