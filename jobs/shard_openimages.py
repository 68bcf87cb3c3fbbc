"""Turn an annotation dump and its images into a dataset; repeat the command to continue it.

python jobs/shard_openimages.py --annotations DUMP --images JPEGS --output DATASET
ray submit ray_cluster.yaml jobs/shard_openimages.py -- --annotations ... --shorter-side 512
"""

from __future__ import annotations

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
        from sharding.prepare import prepare

        job = prepare(options)

        def parallel(function: Any, tasks: Sequence[Any]) -> Iterator[Any]:
            if not tasks:
                return iter(())
            from pipeline import cluster

            cluster.connect()
            return cluster.run_tasks(
                function, tasks, max_in_flight=options.workers, label="sharding"
            )

        print(convert(job, parallel))


if __name__ == "__main__":
    main()
