"""Bring VOC, COCO, NUS-WIDE, CUB or an image,labels CSV into the dataset layout of this project.

$ python jobs/import_dataset.py --format voc --source DIR --output DATASET --single-positive
$ ray submit ray_cluster.yaml jobs/import_dataset.py -- --format coco --source ... --output ...
"""

from __future__ import annotations

import dataclasses

import tyro

from sharding.errors import one_line_errors
from sharding.importers.options import ImportOptions


def main() -> None:
    """Parse, read, write shards as Ray tasks, say what there is now."""
    with one_line_errors():
        options = tyro.cli(ImportOptions, description=__doc__)
        from pipeline.cluster.tasks import task_map
        from sharding.commands.workspace import open_workspace
        from sharding.importers.prepare import prepare_import
        from sharding.importers.run import import_collection

        parallel = task_map("importing", options.workers)
        with open_workspace(options.output, scratch=options.scratch) as workspace:
            local = dataclasses.replace(options, output=str(workspace.directory))
            summary = import_collection(prepare_import(local), parallel, workspace)
        print(summary)


if __name__ == "__main__":
    main()
