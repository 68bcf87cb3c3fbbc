"""Score a checkpoint on a split: mAP per class group, BoostLU off and on.

$ python jobs/evaluate_openimages.py --checkpoint runs/NAME --dataset DIR --split test
"""

from __future__ import annotations

import sys

import tyro

from pipeline.config.commands import EvaluateConfig
from sharding.errors import one_line_errors
from sharding.log import error


def main() -> None:
    """Parse, connect, evaluate, print the table, record it in MLflow."""
    with one_line_errors():
        config = tyro.cli(EvaluateConfig, description=__doc__)
        from pipeline.cluster import session
        from pipeline.evaluation import record, run
        from pipeline.tracking import client

        session.connect()
        evaluation = run.evaluate(config)
        subject = evaluation.subject
        print(evaluation.report.terminal())
        print(f"checkpoint  {subject.checkpoint}  (epoch {subject.meta.epoch})", flush=True)
        try:
            run_id = record.record(evaluation)
        except record.NotRecorded as ended:
            error(str(ended))
            sys.exit(ended.exit_code)
        print(f"MLflow      {client.browse_command()}  (run {run_id})")


if __name__ == "__main__":
    main()
