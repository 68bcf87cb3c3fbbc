"""Check a dataset against its manifest: hashes, indexes, labels, counts, orphans.

$ python jobs/verify_dataset.py --dataset DATASET_OR_URL
$ python jobs/verify_dataset.py --dataset DATASET --repair --images JPEGS
"""

from __future__ import annotations

import tyro

from sharding.commands.options import VerifyOptions
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, check shards as Ray tasks, mend if asked to, report; status 1 if problems remain."""
    with one_line_errors():
        options = tyro.cli(VerifyOptions, description=__doc__)
        from pipeline.cluster.tasks import task_map
        from sharding.commands.verify import verify
        from sharding.commands.workspace import open_workspace

        parallel = task_map("checking shards", options.workers)
        with open_workspace(options.dataset, options.fetch, options.scratch) as workspace:
            result = verify(options, parallel, workspace)
        print(result)
        raise SystemExit(0 if result.intact else 1)


if __name__ == "__main__":
    main()
