"""Run the re-shard job: new label tables, of another dump or derived, over the same image tars.

Classes keep their index: the dump's labels are matched by MID, and those of classes that the
dataset's list lacks are counted. Every older label version stays readable; choosing it is the way
back.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sharding.commands.derived_labels import derive_labels, labels_of_table
from sharding.commands.options import ReshardOptions
from sharding.commands.prepare import annotation_policy, open_dump, refuse_empty
from sharding.commands.summary import (
    REVIEWED_CONFIRMED,
    REVIEWED_NEW,
    REVIEWED_TO_NEGATIVE,
    REVIEWED_TO_POSITIVE,
    Resharded,
)
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.dataset.label_versions import NewLabels, all_labels, tar_labels, with_tar_labels
from sharding.dataset.members import Members, ids_of, members_in
from sharding.dataset.publish import publish, remove_outdated
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.labels import LabelTable
from sharding.layout import MANIFEST_FILE, QUARANTINE_FILE, diff_path
from sharding.maintenance.diff import Comparison, diff_tables
from sharding.maintenance.extend import add_labels, rewrite
from sharding.maintenance.overlay import overlay
from sharding.manifest import Dataset
from sharding.openimages.annotations import SplitLabels, read_splits
from sharding.openimages.dump import Dump
from sharding.shards.dispatch import Workers
from sharding.sources.base import ParallelMap
from sharding.sources.named import open_images
from sharding.storage.files import remove_temporaries, write_json

_UNREVIEWED = ("source ll-cp-correction", "source large-loss")
"""Sources of exported labels that no human has seen, as the reports count them."""


def reshard(
    options: ReshardOptions, parallel: ParallelMap, workspace: Workspace | None = None
) -> Resharded:
    """Write a label version; where asked for, add shards for new images and rewrite the tars.

    Args:
        options: whose dataset is a directory, the workspace's if there is one.
        parallel: spreads work over the cluster.
        workspace: of the dataset, if it is in a bucket.

    Raises:
        InputError: anything about dump, dataset or images that a user can mend.
    """
    started = time.monotonic()
    directory = Path(options.dataset)
    workspace = workspace or Workspace(directory)
    workers = workspace.workers(parallel)
    Dataset.open(directory)  # before a mistyped one would be made
    with lock.acquire(directory):
        dataset = Dataset.open(directory)
        remove_temporaries(directory)
        remove_outdated(directory, dataset.manifest)  # of a job killed after it wrote the manifest
        members = members_in(dataset)
        dump = None if options.annotations is None else open_dump(options)
        if dump is None:
            new = derive_labels(dataset, options)
        else:
            new = read_labels(dataset, dump, options, members)
        refuse_other_content(dataset, new)
        comparison = Comparison.of(dataset, dump, new)
        if comparison is not None:
            dataset = comparison.noted_in(dataset, new)
        source = (
            None
            if options.images is None or dump is None
            else open_images(dataset, options.images, options.fetch, dump)
        )
        added = add_labels(
            dataset, new, source, workers, make_default=options.make_default, members=members
        )
        labelled = Dataset.open(directory)
        diff = {} if comparison is None else comparison.report(labelled, new)
        if diff:
            write_json(directory / diff_path(new.name), diff)
        rewritten = _rewrite(labelled, new, workers) if options.rewrite else 0
        return Resharded(
            location=workspace.location,
            dataset=Dataset.open(directory),
            name=new.name,
            diff=diff,
            added=added,
            rewritten=rewritten,
            seconds=time.monotonic() - started,
        )


def read_labels(
    dataset: Dataset, dump: Dump, options: ReshardOptions, members: Sequence[Members]
) -> NewLabels:
    """Read a dump's labels as indices into the dataset's class list.

    An image keeps the split whose tar holds it: rows that put it into another one are set aside.

    Raises:
        InputError: anything about the dump that a user can mend.
    """
    if options.base is not None and dump.release != "export":
        raise InputError(
            "--base would be ignored: a dump stands for itself, an export is laid over others",
            file=options.annotations,
            fix="leave out --base",
        )
    policy = annotation_policy(options)
    held = {part.shard.split for part in members}
    in_tars = {split: ids_of(split, members) for split in held}
    splits = read_splits(dump, dataset.classes.mids, policy, in_tars)
    record = policy.record()
    if dump.release == "export":
        record["base"], _ = dataset.label_version(options.base)
        _refuse_splits_without_base(dataset, dump, splits, record["base"])
        splits = _over_base(dataset, splits, record["base"])
    else:
        refuse_empty(splits, options)
    new = NewLabels(name=dump.name, release=dump.release, policy=record, splits=splits)
    return new.without(dataset.manifest.removed_ids)


def _refuse_splits_without_base(
    dataset: Dataset, dump: Dump, exports: Mapping[str, SplitLabels], base: str
) -> None:
    """Refuse rows of a split that the base version does not label.

    Raises:
        InputError: there is such a split.
    """
    versions = dataset.manifest.labels
    for split, export in exports.items():
        if split in versions[base].splits or not export.report["rows"]:
            continue
        having = [name for name, version in versions.items() if split in version.splits]
        fix = f"name others with --base ({', '.join(having)})"
        raise InputError(
            f"labels {base} have no {split} labels to lay these over",
            file=str(next(iter(dump.annotation_files(split)))),
            fix=fix if having else "leave this file out: no labels of the dataset have the split",
        )


def _over_base(
    dataset: Dataset, exports: Mapping[str, SplitLabels], base: str
) -> dict[str, SplitLabels]:
    """Lay exports, which have a few entries only, over the labels of the base version."""
    _, version = dataset.label_version(base)
    unseen = sum(split.report[source] for split in exports.values() for source in _UNREVIEWED)
    if 0 < unseen < sum(split.report["rows"] for split in exports.values()):
        raise InputError(
            "the export mixes a model's labels, which yield to humans, with labels that do not",
            fix="re-shard the two one after the other",
        )
    splits = {}
    for split in version.splits:
        table = all_labels(dataset, split, base)
        if split not in exports:
            splits[split] = labels_of_table(dataset, table)
            continue
        export = exports[split]
        answers = {} if unseen else _count_answers(table, export.table, len(dataset.classes))
        splits[split] = dataclasses.replace(
            export,
            table=overlay(table, export.table, patch_wins=not unseen),
            report={**export.report, **answers},
        )
    return splits


def _count_answers(base: LabelTable, reviewed: LabelTable, num_classes: int) -> dict[str, int]:
    """Count what a review says of the labels that it is laid over, as the manifest records it."""
    diff = diff_tables(base, reviewed, num_classes)
    total = {name: int(n_K.sum()) for name, n_K in diff.counts_K.items()}
    return {
        REVIEWED_NEW: total["added_positives"] + total["added_negatives"],
        REVIEWED_CONFIRMED: diff.unchanged,
        REVIEWED_TO_POSITIVE: total["flipped_to_positive"],
        REVIEWED_TO_NEGATIVE: total["flipped_to_negative"],
    }


def refuse_other_content(dataset: Dataset, new: NewLabels) -> None:
    """Refuse to replace a label version by labels of other files or another policy.

    Its tables are not looked at: lost ones are written again from what they were made of.

    Raises:
        InputError: there is a version of this name, and it is such.
    """
    old = dataset.manifest.labels.get(new.name)
    if old is None:
        return
    sources = {k: v for labels in new.splits.values() for k, v in labels.sources.items()}
    if (old.sources, old.policy) != (sources, new.policy):
        raise InputError(
            f"labels {new.name!r} are there already, from other files or by another policy",
            file=dataset.directory / MANIFEST_FILE,
            fix="give the new ones a name of their own with --labels",
        )


def _rewrite(dataset: Dataset, new: NewLabels, workers: Workers) -> int:
    """Replace the tars by tars with the new labels in them; return how many."""
    in_tars = tar_labels(dataset.manifest)
    members = members_in(dataset)
    splits = {part.shard.split for part in members}
    todo = [split for split in new.splits if split in splits and in_tars.get(split) != new.name]
    if not todo:
        return 0
    tables = {split: dataset.labels(split, new.name) for split in todo}
    rewritten = rewrite(dataset, members, tables, workers)
    untouched = [part for part in members if part.shard.split not in tables]
    in_tars.update(dict.fromkeys(todo, new.name))
    created_by = with_tar_labels(dataset.manifest.created_by, in_tars, splits)
    quarantine = Quarantine.read(dataset.directory / QUARANTINE_FILE)
    publish(dataset, new, [*untouched, *rewritten], quarantine, created_by=created_by)
    return len(rewritten)
