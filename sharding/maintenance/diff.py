"""What changed from one dump to the next: labels, images and classes.

Open Images never publishes a change log: labels are added, flipped and removed, images gain their
first labels, and the class list is cut anew. Classes are matched by MID, images by id.

What a new label version changes against the one that the dataset goes by: `diff.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharding.dataset.label_versions import NewLabels, all_labels, labels_without_pixels
from sharding.labels import POSITIVE, LabelTable, entry_keys
from sharding.manifest import Dataset
from sharding.openimages.class_list import read_mids
from sharding.openimages.dump import Dump

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ClassDiff:
    """Two class lists matched by MID.

    Attributes:
        new_index_K: int64, for each old class its index in the new list, -1 where dropped.
        kept, dropped, added: MIDs; ``kept`` and ``dropped`` in old order, ``added`` in new order.
    """

    new_index_K: npt.NDArray[np.int64]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    added: tuple[str, ...]

    @classmethod
    def of(cls, old_mids: Sequence[str], new_mids: Sequence[str]) -> ClassDiff:
        """Match two lists."""
        new_index = {mid: index for index, mid in enumerate(new_mids)}
        known = set(old_mids)
        return cls(
            new_index_K=np.array([new_index.get(mid, -1) for mid in old_mids], np.int64),
            kept=tuple(mid for mid in old_mids if mid in new_index),
            dropped=tuple(mid for mid in old_mids if mid not in new_index),
            added=tuple(mid for mid in new_mids if mid not in known),
        )

    def remap(self, table: LabelTable) -> LabelTable:
        """The table with new class indices; labels of dropped classes are gone, images stay."""
        entries = table.entries()
        classes_E = self.new_index_K[entries.classes_E]
        kept_E = classes_E >= 0
        return LabelTable.from_entries(
            table.image_ids_N,
            entries.rows_E[kept_E],
            classes_E[kept_E],
            entries.states_E[kept_E],
            table.shards,
        )


@dataclass(frozen=True, kw_only=True)
class LabelDiff:
    """Labels of two tables over the same class list, per class (int64 of length K).

    Attributes:
        added_positives_K, added_negatives_K: unobserved before.
        removed_positives_K, removed_negatives_K: unobserved now.
        flipped_to_positive_K, flipped_to_negative_K: observed in both, with another state.
        unchanged: number of entries that are alike in both.
        images_new, images_gone: uint64 ids that only the new or only the old table holds; new
            ones may need pixels.
    """

    added_positives_K: Counts
    added_negatives_K: Counts
    removed_positives_K: Counts
    removed_negatives_K: Counts
    flipped_to_positive_K: Counts
    flipped_to_negative_K: Counts
    unchanged: int
    images_new: npt.NDArray[np.uint64]
    images_gone: npt.NDArray[np.uint64]

    def totals(self) -> dict[str, int]:
        """Sums over classes, and the number of images, for the report and the manifest."""
        return {
            "labels_added_positive": int(self.added_positives_K.sum()),
            "labels_added_negative": int(self.added_negatives_K.sum()),
            "labels_removed_positive": int(self.removed_positives_K.sum()),
            "labels_removed_negative": int(self.removed_negatives_K.sum()),
            "labels_flipped_to_positive": int(self.flipped_to_positive_K.sum()),
            "labels_flipped_to_negative": int(self.flipped_to_negative_K.sum()),
            "labels_unchanged": self.unchanged,
            "images_new": len(self.images_new),
            "images_gone": len(self.images_gone),
        }

    def by_class(self, mids: Sequence[str]) -> dict[str, dict[str, int]]:
        """Counts other than zero by MID, for the classes that changed at all."""
        columns = {
            name.removesuffix("_K"): value
            for name, value in vars(self).items()
            if name.endswith("_K")
        }
        changed = np.flatnonzero(sum(columns.values()))
        return {
            mids[index]: {name: int(v[index]) for name, v in columns.items() if v[index]}
            for index in changed.tolist()
        }


def diff_tables(old: LabelTable, new: LabelTable, num_classes: int) -> LabelDiff:
    """Compare two tables over the same ``num_classes`` classes, in any row order.

    For tables over different lists bring the old one over first: `ClassDiff.remap`.

    Raises:
        ValueError: a class index is not below ``num_classes``.
    """
    for table in (old, new):
        if len(table.classes_E) and int(table.classes_E.max()) >= num_classes:
            raise ValueError(f"a class index is not below {num_classes}")
    image_ids = _distinct(np.concatenate([old.image_ids_N, new.image_ids_N]))
    old_entries, in_old = _sorted_entries(old, image_ids)
    new_entries, in_new = _sorted_entries(new, image_ids)
    only_old, only_new, flipped = _merge(old_entries, new_entries)
    added_positives, added_negatives = _per_class(only_new, num_classes)
    removed_positives, removed_negatives = _per_class(only_old, num_classes)
    to_positive, to_negative = _per_class(flipped, num_classes)
    return LabelDiff(
        added_positives_K=added_positives,
        added_negatives_K=added_negatives,
        removed_positives_K=removed_positives,
        removed_negatives_K=removed_negatives,
        flipped_to_positive_K=to_positive,
        flipped_to_negative_K=to_negative,
        unchanged=len(new_entries) - len(only_new) - len(flipped),
        images_new=image_ids[~in_old],
        images_gone=image_ids[~in_new],
    )


def _distinct(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Sorted and distinct; `np.unique` hashes first, which is several times slower here."""
    ids = np.sort(ids)
    fresh = np.ones(len(ids), np.bool_)
    np.not_equal(ids[1:], ids[:-1], out=fresh[1:])
    return ids[fresh]


def _sorted_entries(
    table: LabelTable, image_ids: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """One sorted int64 per entry, and which of ``image_ids`` the table holds.

    Layout: image, as position in ``image_ids`` | class (16 bits) | positive (1 bit).
    """
    images_N = np.searchsorted(image_ids, table.image_ids_N)
    present = np.zeros(len(image_ids), np.bool_)
    present[images_N] = True
    entries = table.entries()
    keys = entry_keys(images_N[entries.rows_E], entries.classes_E) << 1
    keys |= entries.states_E == POSITIVE
    keys.sort()
    return keys, present


def _merge(
    old: npt.NDArray[np.int64], new: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Entries of pairs that only ``old`` holds, that only ``new`` holds, and ``new``'s flipped."""
    merged = np.concatenate([old << 1, new << 1 | 1])
    merged.sort(kind="stable")  # timsort merges two sorted runs in one pass
    matched = np.flatnonzero(merged[1:] >> 2 == merged[:-1] >> 2)
    alone = np.ones(len(merged), np.bool_)
    alone[matched] = False
    alone[matched + 1] = False
    first, second = merged[matched], merged[matched + 1]
    differ = first >> 1 != second >> 1
    flipped = np.where(first & 1, first, second)[differ] >> 1
    single = merged[alone]
    is_new = (single & 1).astype(np.bool_)
    return single[~is_new] >> 1, single[is_new] >> 1, flipped


def _per_class(entries: npt.NDArray[np.int64], num_classes: int) -> tuple[Counts, Counts]:
    """(positives_K, negatives_K) among entries."""
    classes, positive = entries >> 1 & 0xFFFF, (entries & 1).astype(np.bool_)
    return (
        np.bincount(classes[positive], minlength=num_classes),
        np.bincount(classes[~positive], minlength=num_classes),
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The labels that new ones are compared with: read before anything is written.

    Attributes:
        against: the older version.
        tables: all of its labels by split, those of images without pixels too.
        classes: the report's part about class lists.
    """

    against: str
    tables: Mapping[str, LabelTable]
    classes: Mapping[str, Any]

    @classmethod
    def of(cls, dataset: Dataset, dump: Dump, new: NewLabels) -> Comparison | None:
        """With the default labels; None where the new ones are to replace just these.

        Raises:
            InputError: a table is missing or damaged, or the dump's class list is malformed.
        """
        against, version = dataset.label_version()
        if against == new.name:
            return None
        tables = {
            split: all_labels(dataset, split, against)
            for split in new.splits
            if split in version.splits
        }
        return cls(against=against, tables=tables, classes=_class_lists(dataset, dump))

    def report(self, dataset: Dataset, new: NewLabels) -> dict[str, Any]:
        """What the new labels change, for `diff.json`; ``dataset`` holds them already.

        Images that are new had no label before, those that are gone have none any more. Of the
        images without pixels, the older version names some; the others need them only now.
        """
        mids: Sequence[str] = dataset.classes.mids
        splits, by_class = {}, {}
        for split, labels in new.splits.items():
            old = self.tables.get(split, LabelTable.from_lists([], [], []))
            diff = diff_tables(old, labels.table, len(mids))
            # Not as the tables hold them: over shards every image has a row, labelled or not.
            before, after = _labelled(old), _labelled(labels.table)
            apart = labels_without_pixels(dataset, split, new.name).image_ids_N
            missing = int(np.count_nonzero(np.isin(apart, old.image_ids_N)))
            splits[split] = {
                **diff.totals(),
                "images_new": len(np.setdiff1d(after, before)),
                "images_gone": len(np.setdiff1d(before, after)),
                "images_without_pixels": len(apart),
                "images_missing_before": missing,
                "images_now_needing_pixels": len(apart) - missing,
            }
            by_class[split] = diff.by_class(mids)
        return {"against": self.against, "splits": splits, "by_class": by_class, **self.classes}


def _labelled(table: LabelTable) -> npt.NDArray[np.uint64]:
    """The images that have a label."""
    return table.image_ids_N[table.counts_N > 0]


def _class_lists(dataset: Dataset, dump: Dump) -> dict[str, Any]:
    """The dataset's class list against the dump's; None where the dump came without one.

    Nothing but the report needs it, since labels are matched by the dataset's MIDs. Exports never
    have one.
    """
    if dump.release == "export":
        return {}
    if not dump.has_class_list:
        return {"classes": None}
    found = ClassDiff.of(dataset.classes.mids, read_mids(dump.class_list_file))
    lists = {"dropped": list(found.dropped), "added": list(found.added)}
    return {"classes": {"kept": len(found.kept), **lists}}
