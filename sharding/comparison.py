"""What a new label version changes against the one that the dataset goes by: `diff.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharding.classlist import read_mids
from sharding.commit import NewLabels
from sharding.diff import ClassDiff, diff_tables
from sharding.labels import LabelTable
from sharding.manifest import Dataset
from sharding.releases import Dump
from sharding.versions import all_labels, labels_without_pixels


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
    return table.image_ids_N[np.diff(table.offsets_N1) > 0]


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
