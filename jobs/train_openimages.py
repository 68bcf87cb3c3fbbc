"""Train a CAM + BoostLU network on a dataset; repeat the command to resume.

python jobs/train_openimages.py --dataset DIR --method ll-r --method-options delta_rel=0.5
ray submit ray_cluster.yaml jobs/train_openimages.py -- --preset openimages-v3 --dataset DIR
"""

from __future__ import annotations

import argparse
import json
import sys

import tyro

from pipeline.config import TrainConfig
from pipeline.presets import PRESETS, preset
from sharding.errors import one_line_errors


def parse() -> tuple[TrainConfig, bool]:
    """Flags over a preset's values, or over the defaults."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--print-config", action="store_true")
    chosen, rest = first.parse_known_args()
    start = preset(chosen.preset) if chosen.preset else tyro.MISSING_NONPROP
    about = f"{__doc__}\n--preset {{{','.join(sorted(PRESETS))}}}, --print-config"
    config = tyro.cli(
        TrainConfig,
        default=start,
        args=rest,
        description=about,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return config, chosen.print_config


def main() -> None:
    """Parse, connect, train, say where everything is."""
    with one_line_errors():
        config, only_print = parse()
        if only_print:
            print(json.dumps(config.to_dict(), indent=1))
            return
        from pipeline import cluster, tracking
        from pipeline.train import TrainingStopped, train

        cluster.connect()
        try:
            result = train(config)
        except TrainingStopped as stopped:
            sys.exit(f"error: {stopped}")
        print(f"run              {result.directory}")
        print(f"best checkpoint  {result.best}")
        print(f"MLflow           {tracking.browse_command()}  (run {result.mlflow_run_id})")


if __name__ == "__main__":
    main()
