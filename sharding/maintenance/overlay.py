"""Lay an export over a full label table.

Exports of ours, which are LL-Cp's corrections and reviewed candidates, are read like any dump
(release "export"), but have a few entries only: a label version of them alone would forget
everything else.
"""

from __future__ import annotations

import numpy as np

from sharding.image_ids import IdIndex
from sharding.labels import LabelTable, entry_keys


def overlay(base: LabelTable, patch: LabelTable, *, patch_wins: bool) -> LabelTable:
    """Add the entries of ``patch`` to ``base``.

    Where both observed an entry, ``patch_wins`` decides: true for reviewed labels, false for a
    model's corrections, which yield to what a human said since. Rows keep the base's order and
    shards; images that only the patch knows follow, by id, without a shard.
    """
    new_ids = np.setdiff1d(patch.image_ids_N, base.image_ids_N)
    image_ids_N = np.concatenate([base.image_ids_N, new_ids])
    # Of equal keys `np.unique` keeps the first: the winner's entries come first.
    winner, loser = (patch, base) if patch_wins else (base, patch)
    both = LabelTable.concatenate(winner, loser)
    entries = both.entries()
    rows_E = IdIndex(image_ids_N).rows_of(both.image_ids_N)[entries.rows_E]
    _, kept = np.unique(entry_keys(rows_E, entries.classes_E), return_index=True)
    return LabelTable.from_entries(
        image_ids_N,
        rows_E[kept],
        entries.classes_E[kept],
        entries.states_E[kept],
        [*base.shards, *[""] * len(new_ids)],
    )
