"""Run the jobs that train a network and use it: parse, connect, call, print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.cli.options import (
    begin,
    description,
    expand,
    obey_no_color,
    of_file,
    parse,
    refuse_misplaced,
    require,
    write,
)
from pipeline.config import groups, presets, show
from pipeline.config.commands import (
    AuditConfig,
    EvaluateConfig,
    ExportFormat,
    ExportOptions,
    PredictConfig,
)
from pipeline.config.presets import TrainCommand
from pipeline.config.study import StudyConfig
from pipeline.config.train import TrainConfig
from sharding.errors import command as shell_command
from sharding.errors import here, python_command
from sharding.log import count, error
from sharding.progress import say

if TYPE_CHECKING:
    from pipeline.training.train import TrainResult

_OLD_NAMES = {"--name": "--run"}
TRAIN_OPTIONS = {
    "preset": groups.Option(kind=str, flags=("preset",)),
    **groups.options_of(TrainConfig, flat=True),
}
"""What a configuration file of a training may have."""
_USE: dict[ExportFormat, str] = {
    "safetensors": "from safetensors.torch import load_file; print(*load_file({}))",
    "pt2": "import torch; print(torch.export.load({}))",
    "onnx": "import onnxruntime; print(*onnxruntime.InferenceSession({}).get_outputs())",
}
"""A program that opens an exported file; its quotes are double within the shell's single ones."""


def run_train(arguments: Sequence[str], program: str | None) -> None:
    """Train a CAM + BoostLU network on a dataset; repeat the command to resume.

    $ openimages-boostlu train --dataset DIR
    $ openimages-boostlu train --preset coco --method em-apl --print-config
    $ ray submit ray_cluster.yaml jobs/train_openimages.py -- \\
          --preset openimages-v3 --dataset DIR
    """
    obey_no_color()
    given = expand(arguments, TRAIN_OPTIONS, _OLD_NAMES)
    command = presets.parse(given, description(run_train), program)
    refuse_misplaced(given, TRAIN_OPTIONS)
    if command.list or command.print_config:
        print(_shown(command, of_file(arguments, TRAIN_OPTIONS, _OLD_NAMES)))
        return
    begin(run_train)
    from pipeline.training import train
    from pipeline.training.failures import TrainingEnded

    try:
        if command.dry_run:
            write(train.dry_run(command.config))
            again = (argument for argument in arguments if argument != "--dry-run")
            write(f"next      {shell_command('train', *again)}")
        elif command.headspace:
            write(train.headspace(command.config))
        else:
            preset = command.preset.name if command.preset else ""
            _print_result(train.train(command.config, preset), command.config.dataset)
    except TrainingEnded as ended:
        error(str(ended))
        sys.exit(ended.exit_code)


def _shown(command: TrainCommand, of_file: frozenset[str]) -> str:
    """Write what a training command prints instead of training."""
    if command.list:
        from pipeline.cli import listing

        return listing.LISTS[command.list]()
    from pipeline.methods.registry import complete_options

    return show.print_form(command, complete_options(command.config), of_file)


def _print_result(result: TrainResult, dataset: str) -> None:
    """Print where a training's results are."""
    from pipeline.tables import percent
    from pipeline.tracking import client
    from pipeline.training.progress import MAP

    best = result.best_metrics
    score = f", mAP {percent(best[MAP])}" if MAP in best else ""
    write(f"run              {here(result.directory)}")
    name = result.best.rpartition("/")[2]
    write(f"best checkpoint  {name}  (epoch {best.get('epoch', 0):.0f}{score})")
    write(f"MLflow           {client.browse_command()}")
    write(f"MLflow run       {result.mlflow_run_id}")
    scored = ("--checkpoint", here(result.directory), "--dataset", dataset, "--split", result.split)
    write(f"next             {shell_command('evaluate', *scored)}")


def run_evaluate(arguments: Sequence[str], program: str | None) -> None:
    """Compute a checkpoint's mAP per class group on a split, BoostLU off and on.

    $ openimages-boostlu evaluate --checkpoint runs/NAME --dataset DIR --split test
    """
    config = parse(EvaluateConfig, arguments, program, run_evaluate)
    require(config.checkpoint, config.dataset)
    from pipeline.evaluation import record, run
    from pipeline.models import operating_points
    from pipeline.tracking import client

    evaluation = run.evaluate(config)
    subject = evaluation.subject
    say("writing the results to MLflow")
    try:
        run_id = record.record(evaluation)
    except record.NotRecorded as ended:
        error(str(ended))
        sys.exit(ended.exit_code)
    finally:  # whoever reads it may be gone, or show no such letters
        write(evaluation.report.terminal())
        if evaluation.decisions is not None:
            write(evaluation.decisions)
        if config.thresholds and evaluation.refusal is None:
            write(f"written to  {here(operating_points.path_in(subject.checkpoint))}")
        write(f"checkpoint  {here(subject.checkpoint)}  (epoch {subject.meta.epoch})")
    write(f"MLflow      {client.browse_command()}")
    write(f"MLflow run  {run_id}")
    if config.register:
        following = client.serve_command(config.register)
    else:
        scored = ("--dataset", config.dataset, "--split", config.split)
        places = ("--checkpoint", config.checkpoint, *scored, "--output", "predictions")
        following = shell_command("predict", *places)
    write(f"next        {following}")


def run_study(arguments: Sequence[str], program: str | None) -> None:
    """Compare methods over seeds, with intervals; repeat the command to continue.

    $ openimages-boostlu study --dataset DIR --output DIR --rows an ll-r ll-r@1/1
    $ openimages-boostlu study --dataset DIR --output DIR --preset coco --seeds 5
    """
    config = parse(StudyConfig, arguments, program, run_study)
    from pipeline.study import render, run
    from pipeline.tracking import client

    config, planned = run.prepare(config)
    if config.dry_run:
        write(run.describe(config, planned))
        again = (argument for argument in arguments if argument != "--dry-run")
        write(f"next      {shell_command('study', *again)}")
        return
    for name, draw in run.missing_draws(config, planned):
        from pipeline.cli import dataset_jobs

        dataset_jobs.draw_single_positive(config.dataset, planned.labels, draw, name)
    table = run.run(config, planned)
    write(render.terminal(table))
    write(f"tables    {run.page_of(config)}, and .tex, .csv, .png beside it")
    write(f"MLflow    {client.browse_command()}")
    if any(lost.status == "failed" for lost in table.lost):  # which a repetition may mend
        sys.exit(os.EX_TEMPFAIL)


def run_predict(arguments: Sequence[str], program: str | None) -> None:
    """Predict the labels of a dataset, a folder or a list of URLs, to Parquet.

    $ openimages-boostlu predict --checkpoint runs/NAME --images DIR --output OUT
    $ openimages-boostlu predict --checkpoint models:/NAME@best --urls urls.txt \\
          --output s3://BUCKET/OUT
    $ ray submit ray_cluster.yaml jobs/predict_openimages.py -- \\
          --checkpoint runs/NAME --dataset DIR --output OUT
    """
    config = parse(PredictConfig, arguments, program, run_predict)
    require(config.checkpoint, config.dataset, config.images)
    from pipeline.cluster import session
    from pipeline.inference import predict

    counts = predict.predict(config, session.connect)
    unreadable = f"{counts['errors']:,} unreadable, see the column error"
    write(f"{count(counts['images'], 'image')}, {unreadable if counts['errors'] else 'all read'}")
    write(f"predictions  {config.output}/part-*.parquet  ({count(counts['files'], 'file')})")
    show_rows = f"print(pq.read_table({_quoted(config.output)}).slice(0, 3).to_pylist())"
    write(f"next         {python_command(f'import pyarrow.parquet as pq; {show_rows}')}")


def run_export(arguments: Sequence[str], program: str | None) -> None:
    """Write a checkpoint as safetensors, torch.export, ONNX; compare each with it.

    $ openimages-boostlu export --checkpoint runs/NAME --output exported
    """
    options = parse(ExportOptions, arguments, program, run_export)
    require(options.checkpoint)
    from pipeline.inference import export, locate

    directory = locate.checkpoint_directory(options.checkpoint)
    differences = export.export(directory, options.output, options.formats)
    for name, difference in differences.items():
        path = options.output / f"model.{name}"
        write(f"{path}  {path.stat().st_size / 1e6:.1f} MB, logits within {difference:.1e}")
    write(f"{options.output / 'model.json'}  image size, class list, preprocessing")
    write(f"{options.output / 'README.md'}  model card")
    file = options.output / f"model.{options.formats[0]}"
    write(f"next  {python_command(_USE[options.formats[0]].format(_quoted(file)))}")


def _quoted(path: object) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def run_candidates(arguments: Sequence[str], program: str | None) -> None:
    """Export labels to review: likely missing, likely wrong, or wanted by mAP.

    $ openimages-boostlu candidates --run runs/NAME
    $ openimages-boostlu candidates --run runs/NAME --scores MLFLOW_RUN
    $ openimages-boostlu candidates --run runs/NAME --scores MLFLOW_RUN \\
          --plan 500 --pool predictions
    $ openimages-boostlu candidates --run runs/demo --truth demo/dump/ground_truth
    """
    config = parse(AuditConfig, arguments, program, run_candidates)
    require(config.dataset, config.checkpoint)
    from pipeline.audit import run
    from pipeline.audit.inputs import Readers
    from sharding.dataset.ground_truth import read_ground_truth
    from sharding.dataset.lookup import read_credits, read_images

    readers = Readers(images=read_images, credits=read_credits, truth=read_ground_truth)
    write(run.run(config, readers))
