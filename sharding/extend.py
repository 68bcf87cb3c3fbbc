"""More tars for a finished dataset: for images that had no pixels yet, or with labels anew.

Committed tars are never changed. New ones take the next numbers of their split and count from the
moment the manifest names them; until then an interrupted job finds them by their records.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharding.atomic import write_json
from sharding.commit import Members
from sharding.dispatch import ParallelMap, write_shards
from sharding.images import Treatment
from sharding.labels import LabelTable
from sharding.manifest import Dataset
from sharding.plan import ShardPlan, choose_num_shards, plan_split
from sharding.rotation import Rotations, turns
from sharding.shardsource import ShardSource
from sharding.sources import Source
from sharding.tasks import FOLDER, ShardOutcome, ShardTask, finished, read_record

Ids = npt.NDArray[np.uint64]

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
        treatment = Treatment.of_record(manifest.treatment)
        tasks += [
            dataclasses.replace(
                _task(dataset, plan, tables[split], source, treatment),
                degrees_N=turns(rotations, plan.image_ids_N),
            )
            for plan in plans
        ]
    return tasks


def tasks_for_labels(
    dataset: Dataset, members: Sequence[Members], tables: Mapping[str, LabelTable]
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
        source = ShardSource.of(dataset.directory, part.shard)
        tasks.append(_task(dataset, plan, tables[split], source, Treatment(check=False)))
    return tasks


def perform(
    tasks: Sequence[ShardTask], parallel: ParallelMap
) -> Iterator[tuple[ShardTask, ShardOutcome]]:
    """Write what an interrupted job did not; shards with failures are tried again."""
    by_name = {task.plan.name: task for task in tasks}
    done = {
        name: outcome
        for name, task in by_name.items()
        if (outcome := finished(task)) is not None and not outcome.failures
    }
    todo = [task for name, task in by_name.items() if name not in done]
    done.update((outcome.name, outcome) for outcome in write_shards(todo, parallel))
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
    for path in sorted((dataset.directory / FOLDER).iterdir()):
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
    dataset: Dataset, plan: ShardPlan, table: LabelTable, source: Source, treatment: Treatment
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


def ids_of(split: str, members: Iterable[Members]) -> Ids:
    """The images of a split, in tar order."""
    parts = [part.image_ids_N for part in members if part.shard.split == split]
    return np.concatenate([np.empty(0, np.uint64), *parts])
