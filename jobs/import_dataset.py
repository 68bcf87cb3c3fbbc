"""Bring VOC, COCO, NUS-WIDE, CUB or an image,labels CSV into the dataset layout of this project.

python jobs/import_dataset.py --format voc --source DIR --output DATASET --single-positive
ray submit ray_cluster.yaml jobs/import_dataset.py -- --format coco --source ... --output ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from sharding.errors import one_line_errors
from sharding.importers.options import ImportOptions


def main() -> None:
    """Parse, read, write shards as Ray tasks, say what there is now."""
    with one_line_errors():
        options = tyro.cli(ImportOptions, description=__doc__)
        from sharding.importers.prepare import prepare_import
        from sharding.importers.run import import_collection

        job = prepare_import(options)

        def parallel(function: Any, tasks: Sequence[Any]) -> Iterator[Any]:
            if not tasks:
                return iter(())
            from pipeline import cluster

            cluster.connect()
            return cluster.run_tasks(
                function, tasks, max_in_flight=options.workers, label="importing"
            )

        print(import_collection(job, parallel))


if __name__ == "__main__":
    main()
