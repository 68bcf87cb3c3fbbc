"""Extend a finished dataset: label versions, and tars for images that had no pixels yet.

Committed tars are never changed. New ones take the next numbers of their split and count from the
moment the manifest names them; until then an interrupted job finds them by their records.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sharding import log
from sharding.dataset.label_versions import NewLabels, tar_labels, with_tar_labels
from sharding.dataset.members import Members, members_in, members_of
from sharding.dataset.publish import publish
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError, how_to_repair
from sharding.image_ids import Ids, format_image_ids
from sharding.labels import LabelTable
from sharding.layout import (
    DUPLICATES,
    INDEX,
    MANIFEST_FILE,
    QUARANTINE_FILE,
    RECORD,
    SPLITS,
    TAR,
    UNCOUNTED,
    shard_path,
)
from sharding.maintenance.repair import set_aside
from sharding.manifest import Dataset
from sharding.openimages.rotations import Rotations
from sharding.shards.dispatch import Workers, finished_shards, write_shards
from sharding.shards.plan import ShardPlan, choose_num_shards, plan_split
from sharding.shards.task import ShardOutcome, ShardTask, holds_other
from sharding.shards.transcode import ImagePolicy
from sharding.sources.base import Source
from sharding.sources.shard import WITH_IMAGES, ShardSource
from sharding.storage.object_store import ObjectStore


def add_labels(
    dataset: Dataset,
    new: NewLabels,
    source: Source | None,
    workers: Workers,
    *,
    make_default: bool = False,
    members: Sequence[Members] | None = None,
    quarantine: Quarantine | None = None,
) -> int:
    """Publish a label version, with shards for those of its images that the source now has.

    Args:
        dataset: opened.
        new: the label version to write or replace.
        source: where to look for labelled images without pixels; None to look nowhere.
        workers: perform shard tasks.
        make_default: whether readers take these labels when none are named.
        members: the images of every tar, read from the dataset by default.
        quarantine: what was set aside so far, read from the dataset by default.

    Returns:
        The number of images added.
    """
    members = members_in(dataset) if members is None else list(members)
    if quarantine is None:
        quarantine = Quarantine.read(dataset.directory / QUARANTINE_FILE)
    quarantine = quarantine.merged(new.rejected_rows)
    in_tars, added = tar_labels(dataset.manifest), []
    if source is not None:
        tables = {split: labels.table for split, labels in new.splits.items()}
        wanted = without_pixels(tables, members)
        if probe := next((part for part in members if len(part.image_ids_N)), None):
            (image_id,) = format_image_ids(probe.image_ids_N[:1])
            source = source.asking_for(probe.shard.split, image_id)
        tasks = tasks_for_images(dataset, wanted, tables, source)
        outcomes = write_unfinished(tasks, workers)
        added = members_of(outcomes, (task.plan for task in tasks))
        in_tars = _with_added(in_tars, new.name, added, members)
        for split, ids_N in wanted.items():
            quarantine = quarantine.without_images(split, format_image_ids(ids_N))
        quarantine = quarantine.merged(Quarantine.of_outcomes(outcomes))
        members = [*members, *added]
    splits = {part.shard.split for part in members}
    created_by = with_tar_labels(dataset.manifest.created_by, in_tars, splits)
    if added:
        created_by[DUPLICATES] = UNCOUNTED
    publish(
        dataset,
        new,
        members,
        quarantine,
        created_by=created_by,
        default_labels=new.name if make_default else dataset.manifest.default_labels,
    )
    return sum(part.shard.images for part in added)


def without_pixels(tables: Mapping[str, LabelTable], members: Sequence[Members]) -> dict[str, Ids]:
    """Find the images that tables label and no tar of any split holds, by split, ascending.

    One that several tables label is of the last of their splits.
    """
    held_N = np.concatenate([np.empty(0, np.uint64), *(part.image_ids_N for part in members)])
    wanted = {}
    for split in sorted(tables, key=SPLITS.index, reverse=True):
        wanted[split] = np.setdiff1d(tables[split].image_ids_N, held_N)
        held_N = np.concatenate([held_N, wanted[split]])
    return {split: wanted[split] for split in tables}


def tasks_for_images(
    dataset: Dataset, wanted: Mapping[str, Ids], tables: Mapping[str, LabelTable], source: Source
) -> list[ShardTask]:
    """Plan shards for images that have none, bounded and treated as the dataset's others are."""
    manifest = dataset.manifest
    rotations = Rotations.of_dataset(dataset.directory, manifest.created_by)
    policy = ImagePolicy.of_record(manifest.treatment)
    plans = [
        plan
        for split, ids_N in wanted.items()
        if len(ids_N)
        for plan in plan_split(
            split,
            ids_N,
            seed=manifest.seed,
            num_shards=choose_num_shards(
                ids_N, seed=manifest.seed, largest=manifest.images_per_shard
            ),
            first=manifest.next_number(split),
        )
    ]
    return [
        ShardTask.of(
            plan, tables[plan.split], source, policy, dataset.directory, rotations=rotations
        )
        for plan in plans
    ]


def tasks_for_labels(
    dataset: Dataset,
    members: Sequence[Members],
    tables: Mapping[str, LabelTable],
    bucket: ObjectStore | None = None,
) -> list[ShardTask]:
    """Plan every tar again, with these labels and the same JPEG bytes."""
    numbers = {split: dataset.manifest.next_number(split) for split in tables}
    policy = ImagePolicy(check=False)
    tasks = []
    for part in sorted(members, key=lambda part: part.shard.path):
        split = part.shard.split
        if split not in tables:
            continue
        plan = ShardPlan(split=split, number=numbers[split], image_ids_N=part.image_ids_N)
        numbers[split] += 1
        source = ShardSource.of(dataset.directory, part.shard, bucket)
        tasks.append(ShardTask.of(plan, tables[split], source, policy, dataset.directory))
    return tasks


def rewrite(
    dataset: Dataset,
    members: Sequence[Members],
    tables: Mapping[str, LabelTable],
    workers: Workers,
) -> list[Members]:
    """Write tars anew with these labels and of these images, whose JPEG bytes are copied.

    Raises:
        InputError: an image cannot be read any more.
    """
    tasks = tasks_for_labels(dataset, members, tables, workers.bucket)
    outcomes = write_unfinished(tasks, workers)
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    if failures:
        raise InputError(
            f"{failures[0].source} cannot be read ({failures[0].reason})",
            file=dataset.directory,
            fix=how_to_repair(dataset.directory / MANIFEST_FILE, *WITH_IMAGES),
        )
    return members_of(outcomes, (task.plan for task in tasks))


def write_unfinished(tasks: Sequence[ShardTask], workers: Workers) -> list[ShardOutcome]:
    """Write the shards that an interrupted job did not; those with failures are tried again.

    Tars of other content that have the names of these are set aside: their job may have been
    killed, or the manifest may be an older copy.
    """
    earlier = finished_shards(tasks, retry_failed=True)
    names = {outcome.name for outcome in earlier}
    others = [task for task in tasks if task.plan.name not in names and holds_other(task)]
    if not others:
        return [*earlier, *write_shards(tasks, workers, earlier=earlier)]
    store = workers.bucket or ObjectStore.local(others[0].output)
    paths = [shard_path(task.plan.name) for task in others]
    moved = set_aside(Path(others[0].output), paths, store.move)
    outcomes = [*earlier, *write_shards(tasks, workers, earlier=earlier)]
    written = {outcome.shard.path: outcome.shard.sha256 for outcome in outcomes if outcome.shard}
    for path, aside in moved.items():
        if store.sha256(aside) == written.get(path):  # killed before it could write the record
            for suffix in (TAR, INDEX, RECORD):
                store.remove(aside.removesuffix(TAR) + suffix)
            with contextlib.suppress(OSError):
                os.removedirs(Path(others[0].output, aside).parent)
        else:
            log.info(f"{path} was of another job: moved to {aside}", "WARNING")
    return outcomes


def _with_added(
    in_tars: Mapping[str, str], name: str, added: Sequence[Members], members: Sequence[Members]
) -> dict[str, str]:
    """Label version in the tars by split, after tars with the labels ``name`` were added.

    A split whose tars then hold several versions has none.
    """
    before, in_tars = {part.shard.split for part in members}, dict(in_tars)
    for split in {part.shard.split for part in added}:
        if split not in before:
            in_tars[split] = name
        elif in_tars.get(split) != name:
            in_tars.pop(split, None)
    return in_tars
