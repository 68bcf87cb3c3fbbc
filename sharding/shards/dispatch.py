"""Shard tasks on their way to the workers: what they read from is made ready, then cut to size."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sharding.image_ids import format_image_ids
from sharding.shards.task import ShardOutcome, ShardTask
from sharding.shards.writer import write_shard
from sharding.sources.base import Source

ParallelMap = Callable[
    [Callable[[ShardTask], ShardOutcome], Sequence[ShardTask]], Iterable[ShardOutcome]
]
"""Applies a function to items on other processes; yields results in any order."""


def write_shards(
    tasks: Sequence[ShardTask], parallel: ParallelMap, *, planned: Sequence[ShardTask] | None = None
) -> Iterator[ShardOutcome]:
    """Write shards; yields outcomes in any order.

    Args:
        tasks: to perform.
        parallel: performs them.
        planned: these and the ones that an earlier run finished. What is made ready is made for
            all of them, so that a continued job finds what the killed one left.
    """
    if not tasks:
        return
    by_source: dict[int, list[ShardTask]] = {}
    for task in planned or tasks:
        by_source.setdefault(id(task.source), []).append(task)
    with contextlib.ExitStack() as stack:
        ready: dict[int, Source] = {}
        for key, group in by_source.items():
            ids_N = np.concatenate([task.plan.image_ids_N for task in group])
            staged = group[0].source.staged(ids_N, Path(group[0].output), parallel)  # type: ignore[arg-type]
            ready[key] = stack.enter_context(staged)
        narrow = [
            dataclasses.replace(
                task, source=ready[id(task.source)].only(format_image_ids(task.plan.image_ids_N))
            )
            for task in tasks
        ]
        yield from parallel(write_shard, narrow)
