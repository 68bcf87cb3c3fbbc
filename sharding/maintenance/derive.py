"""Derive labels from others: a share of the known ones, single positives, a hierarchy's closure.

Draws are by a hash of image, class and number of the draw: they do not depend on the order of
images, and a smaller share is part of a larger one of the same draw.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharding.image_ids import Ids
from sharding.labels import NEGATIVE, POSITIVE, LabelTable, Observed, entry_keys
from sharding.openimages.hierarchy import Hierarchy, Relation
from sharding.shards.plan import splitmix64


def keep_known(table: LabelTable, share: float, draw: int) -> LabelTable:
    """Keep a share of a table's labels, chosen at random among all of them.

    Args:
        table: of one split.
        share: of its entries, in (0, 1]; the count is rounded.
        draw: another number, another choice.
    """
    entries = table.entries()
    count = round(share * len(entries.rows_E))
    kept_E = np.zeros(len(entries.rows_E), np.bool_)
    if count:
        hashes_E = _hashes(table, entries, draw)
        kept_E = hashes_E <= np.partition(hashes_E, count - 1)[count - 1]
    return _only(table, entries, kept_E)


def keep_single_positive(table: LabelTable, draw: int) -> LabelTable:
    """Keep one positive of each image that has any, and no negative.

    Args:
        table: of one split.
        draw: another number, another choice.
    """
    entries = table.entries()
    positive = np.flatnonzero(entries.states_E == POSITIVE)
    rows = entries.rows_E[positive]
    order = np.lexsort((_hashes(table, entries, draw)[positive], rows))
    _, first = np.unique(rows[order], return_index=True)
    kept_E = np.zeros(len(entries.rows_E), np.bool_)
    kept_E[positive[order][first]] = True
    return _only(table, entries, kept_E)


def close(table: LabelTable, hierarchy: Hierarchy) -> tuple[LabelTable, dict[str, int]]:
    """Add what a hierarchy implies: a positive's ancestors, and a negative's descendants.

    No label that is there changes. An entry that is implied as both stays unobserved.

    Returns:
        The table, and counts: ``derived_positives`` and ``derived_negatives`` added,
        ``derived_conflicts`` (implied against a label that is there), ``derived_both_ways``.
    """
    entries = table.entries()
    is_positive_E = entries.states_E == POSITIVE
    known = entry_keys(entries.rows_E, entries.classes_E)
    present = _implied(entries, is_positive_E, hierarchy.ancestors)
    absent = _implied(entries, ~is_positive_E, hierarchy.descendants)
    both = np.intersect1d(present, absent, assume_unique=True)
    conflicts = len(np.intersect1d(present, known[~is_positive_E], assume_unique=True)) + len(
        np.intersect1d(absent, known[is_positive_E], assume_unique=True)
    )
    taken = np.union1d(known, both)
    present, absent = (np.setdiff1d(keys, taken, assume_unique=True) for keys in (present, absent))
    keys = np.concatenate([known, present, absent])
    added = np.full(len(present), POSITIVE, np.int8), np.full(len(absent), NEGATIVE, np.int8)
    closed = LabelTable.from_entries(
        table.image_ids_N,
        keys >> 16,
        keys & 0xFFFF,
        np.concatenate([entries.states_E, *added]),
        table.shards,
    )
    return closed, {
        "derived_positives": len(present),
        "derived_negatives": len(absent),
        "derived_conflicts": conflicts,
        "derived_both_ways": len(np.setdiff1d(both, known)),
    }


def _implied(
    entries: Observed, chosen_E: npt.NDArray[np.bool_], relation: Relation
) -> npt.NDArray[np.int64]:
    """List the keys that the chosen entries imply, ascending, each once."""
    rows, classes = entries.rows_E[chosen_E], entries.classes_E[chosen_E]
    positions, others = relation.expand(classes)
    return np.unique(entry_keys(rows[positions], others))


def _hashes(table: LabelTable, entries: Observed, draw: int) -> Ids:
    """Hash image, class and draw of each entry, uint64."""
    seed = splitmix64(np.array([draw], np.uint64))
    by_image_N = splitmix64(table.image_ids_N ^ seed)
    return splitmix64(by_image_N[entries.rows_E] ^ entries.classes_E.astype(np.uint64))


def _only(table: LabelTable, entries: Observed, kept_E: npt.NDArray[np.bool_]) -> LabelTable:
    """Build the table of the kept entries; every image keeps its row."""
    return LabelTable.from_entries(
        table.image_ids_N,
        entries.rows_E[kept_E],
        entries.classes_E[kept_E],
        entries.states_E[kept_E],
        table.shards,
    )
