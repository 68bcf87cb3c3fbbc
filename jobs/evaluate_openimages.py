"""Score a checkpoint on a split: mAP per class group, BoostLU off and on.

$ python jobs/evaluate_openimages.py --checkpoint runs/NAME --dataset DIR --split test
"""

from __future__ import annotations

import tyro

from pipeline.config import EvaluateConfig
from sharding.errors import one_line_errors


def main() -> None:
    """Parse, connect, evaluate, print the table, leave it in MLflow."""
    with one_line_errors():
        config = tyro.cli(EvaluateConfig, description=__doc__)
        from pipeline import bestcheckpoint, cluster, evaluation, record, tracking

        cluster.connect()
        checkpoint = bestcheckpoint.of_run(config.checkpoint)
        found = evaluation.run(config, checkpoint)
        intervals = record.intervals_of(found, config)
        told = record.tell(found, config, intervals)
        run_id = record.record(found, config, checkpoint, intervals)
        print(told)
        print(f"checkpoint  {checkpoint}  (epoch {found.meta.epoch})")
        print(f"MLflow      {tracking.browse_command()}  (run {run_id})")


if __name__ == "__main__":
    main()
