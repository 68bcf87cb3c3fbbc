"""Label candidates of a run: an annotation CSV, a sheet to review, a table against full labels.

$ python jobs/export_candidates.py --run runs/NAME
$ python jobs/export_candidates.py --run runs/demo --truth demo/dump/ground_truth
"""

from __future__ import annotations

import tyro

from pipeline.auditing import AuditConfig
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, judge if there is a truth to judge by, export, say how to go on."""
    with one_line_errors():
        config = tyro.cli(AuditConfig, description=__doc__)
        from pipeline import auditing
        from sharding.lookup import read_images
        from sharding.truth import read_truth

        print(auditing.run(config, read_images, read_truth))


if __name__ == "__main__":
    main()
