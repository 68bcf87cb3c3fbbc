"""Train a CAM + BoostLU network on a dataset; repeat the command to resume.

$ python jobs/train_openimages.py --dataset DIR --method ll-r --method-options delta_rel=0.5
$ ray submit ray_cluster.yaml jobs/train_openimages.py -- --preset openimages-v3 --dataset DIR
$ python jobs/train_openimages.py --preset coco --method em-apl --print-config
"""

from __future__ import annotations

import sys

from pipeline.config import presets, show
from sharding.errors import one_line_errors
from sharding.log import error


def main() -> None:
    """Parse, connect, train, say where everything is."""
    with one_line_errors():
        command = presets.parse(sys.argv[1:], str(__doc__))
        if command.print_config:
            from pipeline.methods.registry import complete_options

            print(show.print_form(command, complete_options(command.config)))
            return
        from pipeline.cluster import session
        from pipeline.tracking import client
        from pipeline.training.failures import TrainingEnded
        from pipeline.training.train import train

        session.connect()
        try:
            result = train(command.config)
        except TrainingEnded as ended:
            error(str(ended))
            sys.exit(ended.exit_code)
        print(f"run              {result.directory}")
        print(f"best checkpoint  {result.best}")
        print(f"MLflow           {client.browse_command()}  (run {result.mlflow_run_id})")


if __name__ == "__main__":
    main()
