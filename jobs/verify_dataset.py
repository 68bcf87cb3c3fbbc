"""Check a dataset against its manifest: hashes, indexes, labels, counts, orphans.

$ python jobs/verify_dataset.py --dataset DATASET_OR_URL
$ python jobs/verify_dataset.py --dataset DATASET --repair --images JPEGS
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from sharding.commands.options import VerifyOptions
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, check shards as Ray tasks, mend if asked to, tell; status 1 if all is not well."""
    with one_line_errors():
        options = tyro.cli(VerifyOptions, description=__doc__)
        from sharding.commands.verify import verify
        from sharding.commands.workspace import open_workspace

        def parallel(function: Any, items: Sequence[Any]) -> Iterator[Any]:
            if not items:
                return iter(())
            from pipeline.cluster import session, tasks

            session.connect()
            return tasks.run_tasks(
                function, items, max_in_flight=options.workers, label="checking shards"
            )

        with open_workspace(options.dataset, options.fetch, options.scratch, indexes=True) as desk:
            result = verify(options, parallel, desk)
        print(desk.named(str(result)))
        raise SystemExit(0 if result.well else 1)


if __name__ == "__main__":
    main()
