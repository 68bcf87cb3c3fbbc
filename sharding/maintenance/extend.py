"""More tars for a finished dataset: for images that had no pixels yet, or with labels anew.

Committed tars are never changed. New ones take the next numbers of their split and count from the
moment the manifest names them; until then an interrupted job finds them by their records.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sharding.dataset.label_versions import NewLabels, carried, with_carried
from sharding.dataset.members import Members, ids_of, members_in, members_of
from sharding.dataset.publish import publish
from sharding.dataset.quarantine import Quarantine, merged_failures, quarantine_of
from sharding.image_ids import Ids, format_image_ids
from sharding.labels import LabelTable
from sharding.layout import IMAGES_FOLDER, QUARANTINE_FILE
from sharding.manifest import Dataset
from sharding.openimages.rotations import Rotations, turns
from sharding.shards.dispatch import Workers, write_shards
from sharding.shards.plan import ShardPlan, choose_num_shards, plan_split
from sharding.shards.task import ShardOutcome, ShardTask, finished, read_record
from sharding.shards.transcode import ImagePolicy
from sharding.sources.base import Source
from sharding.sources.shard import ShardSource
from sharding.storage.files import write_json
from sharding.storage.object_store import ObjectStore

_IMAGE_FILE = re.compile(r"([a-z]+)-(\d{6})\.(?:tar|idx|json)")


def without_pixels(tables: Mapping[str, LabelTable], members: Sequence[Members]) -> dict[str, Ids]:
    """Images that the tables label and no tar holds, by split, ascending."""
    return {
        split: np.setdiff1d(table.image_ids_N, ids_of(split, members))
        for split, table in tables.items()
    }


def tasks_for_images(
    dataset: Dataset, wanted: Mapping[str, Ids], tables: Mapping[str, LabelTable], source: Source
) -> list[ShardTask]:
    """Shards for images that have none, bounded and treated as the dataset's others are."""
    manifest = dataset.manifest
    rotations = Rotations.of_dataset(dataset.directory, manifest.created_by)
    tasks = []
    for split, ids_N in wanted.items():
        if not len(ids_N):
            continue
        num_shards = choose_num_shards(ids_N, seed=manifest.seed, largest=manifest.images_per_shard)
        plans = plan_split(
            split,
            ids_N,
            seed=manifest.seed,
            num_shards=num_shards,
            first=next_number(dataset, split),
        )
        treatment = ImagePolicy.of_record(manifest.treatment)
        tasks += [
            dataclasses.replace(
                _task(dataset, plan, tables[split], source, treatment),
                degrees_N=turns(rotations, plan.image_ids_N),
            )
            for plan in plans
        ]
    return tasks


def tasks_for_labels(
    dataset: Dataset,
    members: Sequence[Members],
    tables: Mapping[str, LabelTable],
    bucket: ObjectStore | None = None,
) -> list[ShardTask]:
    """Every tar anew with these labels beside the same JPEG bytes."""
    numbers: dict[str, int] = {}
    tasks = []
    for part in sorted(members, key=lambda part: part.shard.path):
        split = part.shard.split
        if split not in tables:
            continue
        number = numbers.setdefault(split, next_number(dataset, split))
        numbers[split] += 1
        plan = ShardPlan(split=split, number=number, image_ids_N=part.image_ids_N)
        source = ShardSource.of(dataset.directory, part.shard, bucket)
        tasks.append(_task(dataset, plan, tables[split], source, ImagePolicy(check=False)))
    return tasks


def perform(
    tasks: Sequence[ShardTask], workers: Workers
) -> Iterator[tuple[ShardTask, ShardOutcome]]:
    """Write what an interrupted job did not; shards with failures are tried again."""
    by_name = {task.plan.name: task for task in tasks}
    done = {
        name: outcome
        for name, task in by_name.items()
        if (outcome := finished(task)) is not None and not outcome.failures
    }
    todo = [task for name, task in by_name.items() if name not in done]
    done.update((outcome.name, outcome) for outcome in write_shards(todo, workers))
    for name in sorted(done):
        if done[name].shard is None:
            by_name[name].record.unlink(missing_ok=True)  # the next attempt takes this number
        yield by_name[name], done[name]


def next_number(dataset: Dataset, split: str) -> int:
    """One above the highest number of a committed tar."""
    return 1 + max(_numbers(dataset, split), default=-1)


def remove_superseded(dataset: Dataset) -> int:
    """Remove tars that a rewrite replaced: those below the first committed number of a split.

    A rewrite killed after it wrote the manifest leaves them. Their records stay, without a tar,
    where they know of images that were set aside. Returns the number of files removed.
    """
    removed = 0
    lowest = {
        split: min(_numbers(dataset, split))
        for split in {shard.split for shard in dataset.manifest.shards}
    }
    for path in sorted((dataset.directory / IMAGES_FOLDER).iterdir()):
        match = _IMAGE_FILE.fullmatch(path.name)
        if not match or int(match[2]) >= lowest.get(match[1], 0):
            continue
        record = read_record(path) if path.suffix == ".json" else None
        if record is None or not record.failures:
            path.unlink()
            removed += 1
        elif record.shard is not None:
            write_json(path, dataclasses.replace(record, shard=None, how={}).to_json())
    return removed


def _task(
    dataset: Dataset, plan: ShardPlan, table: LabelTable, source: Source, treatment: ImagePolicy
) -> ShardTask:
    return ShardTask(
        plan=plan,
        labels=table.select(table.rows_of(plan.image_ids_N), [""] * len(plan)),
        source=source,
        treatment=treatment,
        output=str(dataset.directory.resolve()),
    )


def _numbers(dataset: Dataset, split: str) -> list[int]:
    names = [Path(shard.path).stem for shard in dataset.manifest.shards if shard.split == split]
    return [int(name.rpartition("-")[2]) for name in names]


def add_labels(
    dataset: Dataset,
    new: NewLabels,
    source: Source | None,
    workers: Workers,
    make_default: bool = False,
) -> int:
    """Publish a label version, with shards for those of its images that the source now has.

    Returns:
        The number of images added.
    """
    members = members_in(dataset)
    tables = {split: labels.table for split, labels in new.splits.items()}
    quarantine = _quarantine(dataset).merged(new.rejected_rows)
    in_tars, before = carried(dataset.manifest), {part.shard.split for part in members}
    added = 0
    if source is not None:
        wanted_ids = without_pixels(tables, members)
        done = list(perform(tasks_for_images(dataset, wanted_ids, tables, source), workers))
        for task, outcome in done:
            part = members_of(outcome, task.plan.image_ids_N)
            if part is not None:
                split = part.shard.split
                if split not in before:
                    in_tars[split] = new.name
                elif in_tars.get(split) != new.name:
                    in_tars.pop(split, None)
                members.append(part)
                added += part.shard.images
        tried = {split: format_image_ids(ids_N) for split, ids_N in wanted_ids.items()}
        failures = quarantine_of(outcome for _, outcome in done)
        quarantine = merged_failures(quarantine, tried, failures)
    default = new.name if make_default else dataset.manifest.default_labels
    splits = {part.shard.split for part in members}
    created_by = with_carried(dataset.manifest.created_by, in_tars, splits)
    publish(dataset, new, members, quarantine, created_by=created_by, default_labels=default)
    return added


def _quarantine(dataset: Dataset) -> Quarantine:
    return Quarantine.read(dataset.directory / QUARANTINE_FILE)
