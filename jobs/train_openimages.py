"""Train a CAM + BoostLU network on a dataset; repeat the command to resume.

$ python jobs/train_openimages.py --dataset DIR --method ll-r --method-options delta_rel=0.5
$ ray submit ray_cluster.yaml jobs/train_openimages.py -- --preset openimages-v3 --dataset DIR
$ python jobs/train_openimages.py --preset coco --method em-apl --print-config
"""

from __future__ import annotations

import argparse
import sys

import tyro

from pipeline.config import presets, show
from pipeline.config.train import TrainConfig
from sharding.errors import one_line_errors
from sharding.log import error


def parse(arguments: list[str]) -> tuple[TrainConfig, presets.Preset | None, str | None]:
    """Flags over a preset's values, or over the defaults; what to print instead of training."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--print-config", nargs="?", choices=("table", "json"), const="table")
    chosen, rest = first.parse_known_args(arguments)
    start = None
    if chosen.preset:
        # Read twice: the preset's values depend on the method.
        first.add_argument("--method")
        start = presets.preset(chosen.preset, first.parse_known_args(arguments)[0].method)
    about = f"{__doc__}\n--preset {presets.SPELLING}\n--print-config [table|json]"
    config = tyro.cli(
        TrainConfig,
        default=start.config if start else tyro.MISSING_NONPROP,
        args=rest,
        description=about,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return presets.merged(start, config) if start else config, start, chosen.print_config


def main() -> None:
    """Parse, connect, train, say where everything is."""
    with one_line_errors():
        config, start, shown = parse(sys.argv[1:])
        if shown:
            from pipeline.methods.registry import complete_options

            rows = show.rows(config, start, complete_options(config))
            print(show.as_json(config, rows) if shown == "json" else show.as_table(rows))
            return
        from pipeline.cluster import session
        from pipeline.tracking import client
        from pipeline.training.failures import TrainingEnded
        from pipeline.training.train import train

        session.connect()
        try:
            result = train(config)
        except TrainingEnded as ended:
            error(str(ended))
            sys.exit(ended.exit_code)
        print(f"run              {result.directory}")
        print(f"best checkpoint  {result.best}")
        print(f"MLflow           {client.browse_command()}  (run {result.mlflow_run_id})")


if __name__ == "__main__":
    main()
