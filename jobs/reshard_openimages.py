"""Lay a new annotation dump, or an export of ours, over a dataset; its images stay as they are.

$ python jobs/reshard_openimages.py --dataset DATASET --annotations DUMP
$ ray submit ray_cluster.yaml jobs/reshard_openimages.py -- --dataset ... --annotations DUMP
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from sharding.commands.options import ReshardOptions
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, write labels here and shards, where any are needed, as Ray tasks."""
    with one_line_errors():
        options = tyro.cli(ReshardOptions, description=__doc__)
        from sharding.commands.reshard import reshard
        from sharding.commands.workspace import open_workspace

        def parallel(function: Any, tasks: Sequence[Any]) -> Iterator[Any]:
            if not tasks:
                return iter(())
            from pipeline.cluster import session
            from pipeline.cluster.tasks import run_tasks

            session.connect()
            return run_tasks(function, tasks, max_in_flight=options.workers, label="writing shards")

        with open_workspace(options.dataset, options.fetch, options.scratch) as desk:
            here = dataclasses.replace(options, dataset=str(desk.directory))
            told = reshard(here, desk.through(parallel))
        print(desk.named(str(told)))


if __name__ == "__main__":
    main()
