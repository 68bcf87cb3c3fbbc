"""Our own exports speak of a few entries only: laid over a full label table, not instead of it.

LL-Cp's corrections and reviewed candidates are read like any dump (release "export"), but a label
version made of them alone would forget everything else.
"""

from __future__ import annotations

import numpy as np

from sharding.labels import POSITIVE, LabelTable


def overlay(base: LabelTable, patch: LabelTable, *, patch_wins: bool) -> LabelTable:
    """The base table with the entries of the patch added.

    Where both observed an entry, ``patch_wins`` decides: true for reviewed labels, false for a
    model's corrections, which yield to what a human said since. Rows keep the base's order and
    shards; images that only the patch knows follow, by id, without a shard.
    """
    strange = np.setdiff1d(patch.image_ids_N, base.image_ids_N)
    image_ids_N = np.concatenate([base.image_ids_N, strange])
    patch_rows_N = base.rows_of(patch.image_ids_N)
    is_strange_N = patch_rows_N < 0
    patch_rows_N[is_strange_N] = len(base) + np.searchsorted(
        strange, patch.image_ids_N[is_strange_N]
    )
    rows_E = np.concatenate(
        [
            np.repeat(np.arange(len(base)), np.diff(base.offsets_N1)),
            np.repeat(patch_rows_N, np.diff(patch.offsets_N1)),
        ]
    )
    classes_E = np.concatenate([base.classes_E, patch.classes_E]).astype(np.int64)
    negative_E = np.concatenate([base.states_E, patch.states_E]) != POSITIVE
    # `np.unique` keeps the first of equal pairs: the winner's entries must come first.
    order = np.arange(len(rows_E))
    if patch_wins:
        order = np.roll(order, len(patch.classes_E))
    _, first = np.unique((rows_E << 16 | classes_E)[order], return_index=True)
    kept = order[first]
    kept = kept[np.argsort(rows_E[kept] << 17 | negative_E[kept] << 16 | classes_E[kept])]
    lengths_N = np.bincount(rows_E[kept], minlength=len(image_ids_N))
    return LabelTable(
        image_ids_N=image_ids_N,
        offsets_N1=np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int64),
        classes_E=classes_E[kept].astype(np.uint16),
        states_E=np.concatenate([base.states_E, patch.states_E])[kept],
        shards=[*base.shards, *[""] * len(strange)],
    )
