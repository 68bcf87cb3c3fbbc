"""Reading the labels of a new dump, or of an export, for a dataset that already has classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sharding import structured
from sharding.annotations import AnnotationPolicy, SplitLabels, read_split
from sharding.commit import NewLabels
from sharding.errors import InputError
from sharding.manifest import Dataset
from sharding.options import ReshardOptions
from sharding.overlay import overlay
from sharding.releases import Dump
from sharding.versions import all_labels

# Sources of exports that no human has seen.
_OF_A_MODEL = ("source ll-cp-correction", "source large-loss")


def open_dump(options: ReshardOptions) -> Dump:
    """The dump or export that the options name."""
    dump = Dump.open(options.annotations, options.release, options.name)
    for remark in dump.remarks:
        structured.tell(remark)
    return dump


def read_labels(dataset: Dataset, dump: Dump, options: ReshardOptions) -> NewLabels:
    """The dump's labels as indices into the dataset's class list.

    Raises:
        InputError: anything about the dump that a user can mend.
    """
    policy = AnnotationPolicy(
        conflict=options.conflict, machine=options.machine, strict=options.strict
    )
    splits = {split: read_split(dump, split, dataset.classes.mids, policy) for split in dump.splits}
    record: dict[str, Any] = {k: v for k, v in policy.record().items() if k != "strict"}
    if dump.release == "export":
        record["base"], _ = dataset.label_version(options.base)
        splits = _over_base(dataset, splits, record["base"])
    return NewLabels(name=dump.name, release=dump.release, policy=record, splits=splits)


def _over_base(
    dataset: Dataset, exports: Mapping[str, SplitLabels], base: str
) -> dict[str, SplitLabels]:
    """Exports speak of a few entries; all else stays what the base says."""
    _, version = dataset.label_version(base)
    unseen = sum(split.report[source] for split in exports.values() for source in _OF_A_MODEL)
    if 0 < unseen < sum(split.report["rows"] for split in exports.values()):
        raise InputError(
            "the export mixes a model's labels, which yield to humans, with labels that do not",
            fix="re-shard the two one after the other",
        )
    splits = {}
    for split in version.splits:
        table = all_labels(dataset, split, base)
        if split not in exports:
            splits[split] = SplitLabels(
                table=table,
                report={},
                unknown_mids={},
                bad_rows=(),
                sources={},
                human_positives_K=dataset.classes.positives_K,
                human_negatives_K=dataset.classes.negatives_K,
            )
            continue
        laid = overlay(table, exports[split].table, patch_wins=not unseen)
        splits[split] = dataclasses.replace(exports[split], table=laid)
    return splits
