"""Check a dataset against its manifest: hashes, indexes, labels, counts, orphans.

$ python jobs/verify_dataset.py --dataset DATASET_OR_URL
$ python jobs/verify_dataset.py --dataset DATASET --repair --images JPEGS
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from sharding.errors import one_line_errors
from sharding.options import VerifyOptions


def main() -> None:
    """Parse, check shards as Ray tasks, mend if asked to, tell; status 1 if all is not well."""
    with one_line_errors():
        options = tyro.cli(VerifyOptions, description=__doc__)
        from sharding.checkup import checkup
        from sharding.desk import at_desk

        def parallel(function: Any, items: Sequence[Any]) -> Iterator[Any]:
            if not items:
                return iter(())
            from pipeline import cluster

            cluster.connect()
            return cluster.run_tasks(
                function, items, max_in_flight=options.workers, label="checking shards"
            )

        with at_desk(options.dataset, options.fetch, options.scratch, indexes=True) as desk:
            result = checkup(options, parallel, desk)
        print(desk.named(str(result)))
        raise SystemExit(0 if result.well else 1)


if __name__ == "__main__":
    main()
