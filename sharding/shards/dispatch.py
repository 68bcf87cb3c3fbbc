"""Stage each image source once, narrow it to each shard, write the shards in parallel."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharding.image_ids import format_image_ids
from sharding.shards.task import ShardOutcome, ShardTask, finished
from sharding.shards.writer import write_shard
from sharding.sources.base import ParallelMap, Source
from sharding.storage.object_store import ObjectStore


def _ignore(outcome: ShardOutcome) -> None:
    """Do nothing: what is written in place needs no mirror."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that write shards, and the places that they reach.

    Attributes:
        parallel: applies a function to items on them.
        shared: a directory that all of them reach; None where there is none.
        bucket: where they upload shards; None where they write them into the tasks' own output.
        mirror: called on the driver with every outcome, to repeat it in its own copy of a bucket.
    """

    parallel: ParallelMap
    shared: Path | None
    bucket: ObjectStore | None = None
    mirror: Callable[[ShardOutcome], None] = _ignore


def finished_shards(tasks: Sequence[ShardTask], *, retry_failed: bool) -> list[ShardOutcome]:
    """Find the shards that an earlier run wrote; with ``retry_failed`` those without failures."""
    outcomes = [outcome for task in tasks if (outcome := finished(task)) is not None]
    return [outcome for outcome in outcomes if not (retry_failed and outcome.failures)]


def write_shards(
    tasks: Sequence[ShardTask], workers: Workers, *, earlier: Sequence[ShardOutcome] = ()
) -> Iterator[ShardOutcome]:
    """Write shards; yields outcomes in any order.

    Args:
        tasks: of all shards of the job.
        workers: perform the tasks.
        earlier: outcomes of shards that are not written again. Sources are staged for all shards,
            so that a continued job finds what the killed one staged.
    """
    names = {outcome.name for outcome in earlier}
    todo = [task for task in tasks if task.plan.name not in names]
    if not todo:
        return
    by_source: dict[int, list[ShardTask]] = {}
    for task in tasks:
        by_source.setdefault(id(task.source), []).append(task)
    with contextlib.ExitStack() as stack:
        staged: dict[int, Source] = {}
        for key, group in by_source.items():
            ids_N = np.concatenate([task.plan.image_ids_N for task in group])
            context = group[0].source.staged(ids_N, workers.shared, workers.parallel)
            staged[key] = stack.enter_context(context)
        narrow = [
            dataclasses.replace(
                task,
                source=staged[id(task.source)].only(format_image_ids(task.plan.image_ids_N)),
                bucket=workers.bucket,
            )
            for task in todo
        ]
        for outcome in workers.parallel(write_shard, narrow):
            workers.mirror(outcome)
            yield outcome
