"""Turn an annotation dump and its images into a dataset; repeat the command to continue it.

$ python jobs/shard_openimages.py --annotations DUMP --images JPEGS --output DATASET
$ ray submit ray_cluster.yaml jobs/shard_openimages.py -- --annotations ... --output s3://bucket/x
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from sharding.errors import one_line_errors
from sharding.options import ShardOptions


def main() -> None:
    """Parse, plan, write shards as Ray tasks, say what there is now."""
    with one_line_errors():
        options = tyro.cli(ShardOptions, description=__doc__)
        from sharding.convert import convert
        from sharding.desk import at_desk
        from sharding.prepare import prepare

        def parallel(function: Any, tasks: Sequence[Any]) -> Iterator[Any]:
            if not tasks:
                return iter(())
            from pipeline import cluster

            cluster.connect()
            return cluster.run_tasks(
                function, tasks, max_in_flight=options.workers, label="sharding"
            )

        with at_desk(options.output, options.fetch, options.scratch) as desk:
            here = dataclasses.replace(options, output=str(desk.directory))
            told = convert(prepare(here), desk.through(parallel))
        print(desk.named(str(told)))


if __name__ == "__main__":
    main()
