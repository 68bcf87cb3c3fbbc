"""Lay a new annotation dump, or an export of ours, over a dataset; its images stay as they are.

$ python jobs/reshard_openimages.py --dataset DATASET --annotations DUMP
$ ray submit ray_cluster.yaml jobs/reshard_openimages.py -- --dataset ... --annotations DUMP
"""

from __future__ import annotations

import dataclasses

import tyro

from sharding.commands.options import ReshardOptions
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, write labels here and shards, where any are needed, as Ray tasks."""
    with one_line_errors():
        options = tyro.cli(ReshardOptions, description=__doc__)
        from pipeline.cluster.tasks import task_map
        from sharding.commands.reshard import reshard
        from sharding.commands.workspace import open_workspace

        parallel = task_map("writing shards", options.workers)
        with open_workspace(options.dataset, options.fetch, options.scratch) as workspace:
            local = dataclasses.replace(options, dataset=str(workspace.directory))
            summary = reshard(local, parallel, workspace)
        print(summary)


if __name__ == "__main__":
    main()
