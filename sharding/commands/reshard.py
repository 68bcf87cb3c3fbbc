"""A new annotation dump over an existing dataset: new label tables, the same image tars.

Classes keep their index: the dump's labels are matched by MID, and what the dataset's class list
lacks is counted. Every older label version stays readable; choosing it is the way back.

Reading the labels of a new dump, or of an export, for a dataset that already has classes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharding import log
from sharding.commands.options import ReshardOptions
from sharding.commands.summary import Resharded
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.dataset.label_versions import NewLabels, all_labels, carried, with_carried
from sharding.dataset.members import members_in, members_of
from sharding.dataset.publish import publish
from sharding.errors import InputError
from sharding.layout import DIFF_FILE, MANIFEST_FILE
from sharding.maintenance.diff import Comparison
from sharding.maintenance.extend import (
    _quarantine,
    add_labels,
    perform,
    remove_superseded,
    tasks_for_labels,
)
from sharding.maintenance.overlay import overlay
from sharding.manifest import Dataset
from sharding.openimages.annotations import AnnotationPolicy, SplitLabels, read_split
from sharding.openimages.dump import Dump
from sharding.shards.dispatch import Workers
from sharding.sources.base import ParallelMap
from sharding.sources.named import open_images
from sharding.sources.shard import WITH_IMAGES
from sharding.storage.files import remove_temporaries, write_json


def reshard(
    options: ReshardOptions, parallel: ParallelMap, workspace: Workspace | None = None
) -> Resharded:
    """Write a label version, add shards for new images, write tars anew: as far as asked for.

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
        remove_temporaries(dataset.directory)
        remove_superseded(dataset)
        dump = open_dump(options)
        new = read_labels(dataset, dump, options)
        _refuse_other_content(dataset, new)
        comparison = Comparison.of(dataset, dump, new)
        source = (
            None
            if options.images is None
            else open_images(dataset, options.images, options.fetch, dump)
        )
        added = add_labels(dataset, new, source, workers, options.make_default)
        labelled = Dataset.open(directory)
        diff = {} if comparison is None else comparison.report(labelled, new)
        if diff:
            write_json(dataset.directory / f"labels/{new.name}/{DIFF_FILE}", diff)
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


def _refuse_other_content(dataset: Dataset, new: NewLabels) -> None:
    """A label version is what it was made from; another dump needs another name."""
    old = dataset.manifest.labels.get(new.name)
    if old is None:
        return
    sources = {k: v for labels in new.splits.values() for k, v in labels.sources.items()}
    policy = {k: v for k, v in old.policy.items() if k != "strict"}
    if (old.sources, policy) != (sources, dict(new.policy)):
        raise InputError(
            f"labels {new.name!r} are there already, from other files or by another policy",
            file=dataset.directory / MANIFEST_FILE,
            fix="give the new ones a --name of their own",
        )


def _rewrite(dataset: Dataset, new: NewLabels, workers: Workers) -> int:
    """Replace the tars by tars that carry the new labels; return how many."""
    in_tars = carried(dataset.manifest)
    members = members_in(dataset)
    splits = {part.shard.split for part in members}
    todo = [split for split in new.splits if split in splits and in_tars.get(split) != new.name]
    if not todo:
        return 0
    tables = {split: dataset.labels(split, new.name) for split in todo}
    done = list(perform(tasks_for_labels(dataset, members, tables, workers.bucket), workers))
    kept = [part for part in members if part.shard.split not in tables]
    for task, outcome in done:
        part = members_of(outcome, task.plan.image_ids_N)
        if part is None or outcome.failures:
            raise InputError(
                f"images of {task.source.name(task.plan.split, '*')} cannot be read",
                file=dataset.directory,
                fix=WITH_IMAGES,
            )
        kept.append(part)
    in_tars.update(dict.fromkeys(todo, new.name))
    created_by = with_carried(dataset.manifest.created_by, in_tars, splits)
    publish(dataset, new, kept, _quarantine(dataset), created_by=created_by)
    remove_superseded(Dataset.open(dataset.directory))
    return len(done)


# Sources of exports that no human has seen.
_OF_A_MODEL = ("source ll-cp-correction", "source large-loss")


def open_dump(options: ReshardOptions) -> Dump:
    """The dump or export that the options name."""
    dump = Dump.open(options.annotations, options.release, options.name)
    for remark in dump.remarks:
        log.info(remark)
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
                rejected_rows=(),
                sources={},
                human_positives_K=dataset.classes.positives_K,
                human_negatives_K=dataset.classes.negatives_K,
            )
            continue
        laid = overlay(table, exports[split].table, patch_wins=not unseen)
        splits[split] = dataclasses.replace(exports[split], table=laid)
    return splits
