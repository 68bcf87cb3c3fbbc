"""Compare label versions and class lists: what a new dump changes, for its `diff.json`.

Open Images never publishes a change log: labels are added, flipped and removed, images gain their
first labels, and the class list is cut anew. Classes are matched by MID, images by id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharding.dataset.label_versions import NewLabels, all_labels, labels_without_pixels
from sharding.errors import InputError
from sharding.image_ids import Ids
from sharding.labels import POSITIVE, LabelTable, entry_keys
from sharding.layout import COMPARED_WITH
from sharding.manifest import Dataset
from sharding.openimages.class_list import read_mids
from sharding.openimages.dump import Dump

Keys = npt.NDArray[np.int64]
"""Entries as integers: image, as position in a list of ids | class (16 bits) | positive (1 bit)."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Hold the labels that new ones are compared with, read before anything is written.

    Attributes:
        against: the older version.
        tables: all of its labels by split, those of images without pixels included.
        classes: the report's part about class lists.
    """

    against: str
    tables: Mapping[str, LabelTable]
    classes: Mapping[str, Any]

    @classmethod
    def of(cls, dataset: Dataset, dump: Dump | None, new: NewLabels) -> Comparison | None:
        """Read the default labels; None where the new ones are to replace just these.

        Labels that a job has made the default, and was killed before it wrote their report, are
        compared with those that the manifest names; without a report where these are lost, too,
        since each of the two could otherwise only be mended after the other.

        Raises:
            InputError: a table is missing or damaged, or the dump's class list is malformed.
        """
        against: str | None = dataset.manifest.default_labels
        is_default = against == new.name
        if is_default:
            against = dataset.manifest.created_by.get(f"{COMPARED_WITH}/{new.name}")
        if against is None:
            return None
        try:
            _, version = dataset.label_version(against)
            tables = {
                split: all_labels(dataset, split, against)
                for split in new.splits
                if split in version.splits
            }
        except InputError:
            if is_default:
                return None
            raise
        return cls(against=against, tables=tables, classes=_class_lists(dataset, dump))

    def noted_in(self, dataset: Dataset, new: NewLabels) -> Dataset:
        """Copy a dataset whose next manifest says what the new labels are compared with."""
        noted = {f"{COMPARED_WITH}/{new.name}": self.against}
        return dataclasses.replace(dataset, manifest=dataset.manifest.with_provenance(**noted))

    def report(self, dataset: Dataset, new: NewLabels) -> dict[str, Any]:
        """Count what the new labels change; ``dataset`` holds them already.

        New images had no label before, gone ones have none any more. Of the images without
        pixels, the older version names some; the others need them only now.
        """
        mids: Sequence[str] = dataset.classes.mids
        splits, by_class = {}, {}
        for split, labels in new.splits.items():
            old = self.tables.get(split, LabelTable.from_lists([], [], []))
            diff = diff_tables(old, labels.table, len(mids))
            # Not as `diff` counts them: over shards every image has a row, labelled or not.
            before, after = _labelled(old), _labelled(labels.table)
            wanted = labels_without_pixels(dataset, split, new.name).image_ids_N
            missing = int(np.count_nonzero(np.isin(wanted, old.image_ids_N)))
            splits[split] = {
                **diff.totals(),
                "images_new": len(np.setdiff1d(after, before)),
                "images_gone": len(np.setdiff1d(before, after)),
                "images_without_pixels": len(wanted),
                "images_missing_before": missing,
                "images_now_needing_pixels": len(wanted) - missing,
            }
            by_class[split] = diff.by_class(mids)
        return {"against": self.against, "splits": splits, "by_class": by_class, **self.classes}


def _labelled(table: LabelTable) -> Ids:
    """Select the images that have a label."""
    return table.image_ids_N[table.counts_N > 0]


def _class_lists(dataset: Dataset, dump: Dump | None) -> dict[str, Any]:
    """Compare the dataset's class list with the dump's; None where the dump came without one.

    Only the report needs it, since labels are matched by the dataset's MIDs. Exports and derived
    labels never have one.
    """
    if dump is None or dump.release == "export":
        return {}
    if not dump.has_class_list:
        return {"classes": None}
    return {"classes": diff_classes(dataset.classes.mids, read_mids(dump.class_list_file))}


def diff_classes(old_mids: Sequence[str], new_mids: Sequence[str]) -> dict[str, Any]:
    """Match two class lists by MID: the number kept, those dropped and added, each in its order."""
    old, new = set(old_mids), set(new_mids)
    return {
        "kept": len(old & new),
        "dropped": [mid for mid in old_mids if mid not in new],
        "added": [mid for mid in new_mids if mid not in old],
    }


@dataclass(frozen=True, kw_only=True)
class LabelDiff:
    """Count the differences of two label tables over the same class list.

    Attributes:
        counts_K: labels per class (int64) that were added_positives, added_negatives (unobserved
            before), removed_positives, removed_negatives (unobserved now), flipped_to_positive
            or flipped_to_negative (observed in both, with another state).
        unchanged: number of entries that are alike in both.
        images_new, images_gone: ids that only the new or only the old table holds; new ones may
            need pixels.
    """

    counts_K: Mapping[str, npt.NDArray[np.int64]]
    unchanged: int
    images_new: Ids
    images_gone: Ids

    def totals(self) -> dict[str, int]:
        """Sum over classes and count the images, for the report."""
        sums = {name.removesuffix("s"): int(n_K.sum()) for name, n_K in self.counts_K.items()}
        return {
            **{f"labels_{name}": number for name, number in sums.items()},
            "labels_unchanged": self.unchanged,
            "images_new": len(self.images_new),
            "images_gone": len(self.images_gone),
        }

    def by_class(self, mids: Sequence[str]) -> dict[str, dict[str, int]]:
        """List the counts other than zero by MID, for the classes that changed at all."""
        changed = np.flatnonzero(sum(self.counts_K.values()))
        return {
            mids[k]: {name: int(n_K[k]) for name, n_K in self.counts_K.items() if n_K[k]}
            for k in changed.tolist()
        }


def diff_tables(old: LabelTable, new: LabelTable, num_classes: int) -> LabelDiff:
    """Compare two tables over the same ``num_classes`` classes, in any row order.

    Raises:
        ValueError: a class index is not below ``num_classes``.
    """
    for table in (old, new):
        if len(table.classes_E) and int(table.classes_E.max()) >= num_classes:
            raise ValueError(f"a class index is not below {num_classes}")
    image_ids = _distinct(np.concatenate([old.image_ids_N, new.image_ids_N]))
    old_keys, in_old = _sorted_keys(old, image_ids)
    new_keys, in_new = _sorted_keys(new, image_ids)
    removed, added, flipped = _merge(old_keys, new_keys)
    return LabelDiff(
        counts_K={
            **_per_class("added_positives", "added_negatives", added, num_classes),
            **_per_class("removed_positives", "removed_negatives", removed, num_classes),
            **_per_class("flipped_to_positive", "flipped_to_negative", flipped, num_classes),
        },
        unchanged=len(new_keys) - len(added) - len(flipped),
        images_new=image_ids[~in_old],
        images_gone=image_ids[~in_new],
    )


def _distinct(ids: Ids) -> Ids:
    """Sort ids and drop repeated ones; `np.unique` hashes first, which is several times slower."""
    ids = np.sort(ids)
    fresh = np.ones(len(ids), np.bool_)
    np.not_equal(ids[1:], ids[:-1], out=fresh[1:])
    return ids[fresh]


def _sorted_keys(table: LabelTable, image_ids: Ids) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """Pack a table's entries into sorted keys; also tell which of ``image_ids`` it holds."""
    images_N = np.searchsorted(image_ids, table.image_ids_N)
    present = np.zeros(len(image_ids), np.bool_)
    present[images_N] = True
    entries = table.entries()
    keys = entry_keys(images_N[entries.rows_E], entries.classes_E) << 1
    keys |= entries.states_E == POSITIVE
    keys.sort()
    return keys, present


def _merge(old: Keys, new: Keys) -> tuple[Keys, Keys, Keys]:
    """Find the entries of image and class pairs in ``old`` only, in ``new`` only, and flipped."""
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


def _per_class(
    positives: str, negatives: str, keys: Keys, num_classes: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Count the positive and the negative entries of each class, under these names."""
    classes, is_positive = keys >> 1 & 0xFFFF, (keys & 1).astype(np.bool_)
    return {
        positives: np.bincount(classes[is_positive], minlength=num_classes),
        negatives: np.bincount(classes[~is_positive], minlength=num_classes),
    }
