"""Turn an annotation dump and its images into a dataset; repeat the command to continue it.

$ python jobs/shard_openimages.py --annotations DUMP --images JPEGS --output DATASET
$ ray submit ray_cluster.yaml jobs/shard_openimages.py -- --annotations ... --output s3://bucket/x
"""

from __future__ import annotations

import dataclasses

import tyro

from sharding.commands.options import ShardOptions
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, plan, write shards as Ray tasks, say what there is now."""
    with one_line_errors():
        options = tyro.cli(ShardOptions, description=__doc__)
        from pipeline.cluster.tasks import task_map
        from sharding.commands.prepare import prepare
        from sharding.commands.shard import shard_dump
        from sharding.commands.workspace import open_workspace

        parallel = task_map("sharding", options.workers)
        with open_workspace(options.output, options.fetch, options.scratch) as workspace:
            local = dataclasses.replace(options, output=str(workspace.directory))
            summary = shard_dump(prepare(local), parallel, workspace)
        print(summary)


if __name__ == "__main__":
    main()
