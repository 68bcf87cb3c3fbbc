"""Label candidates of a run: an annotation CSV, a sheet to review, a table against full labels.

$ python jobs/export_candidates.py --run runs/NAME
$ python jobs/export_candidates.py --run runs/demo --truth demo/dump/ground_truth
"""

from __future__ import annotations

import tyro

from pipeline.config.commands import AuditConfig
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, judge where --truth is given, export, print what to do next."""
    with one_line_errors():
        config = tyro.cli(AuditConfig, description=__doc__)
        from pipeline.audit import run
        from sharding.dataset.ground_truth import read_ground_truth
        from sharding.dataset.lookup import read_images

        print(run.run(config, read_images, read_ground_truth))


if __name__ == "__main__":
    main()
