"""An evaluation in MLflow: a child of the run that trained, closed however recording ends."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline import storage
from pipeline.cluster import session
from pipeline.config.commands import EvaluateConfig
from pipeline.data.labels import LabelledSplit
from pipeline.data.staging import open_dataset
from pipeline.evaluation import figures, publish, report
from pipeline.evaluation.attribution import MapStudy
from pipeline.evaluation.references import ATTRIBUTION, SCORES
from pipeline.evaluation.report import Report
from pipeline.evaluation.run import Evaluation
from pipeline.evaluation.scores import BOOST_OFF, BOOST_ON
from pipeline.inference import cam_figures, mlflow_model
from pipeline.inference.cams import ExplainedImage, explain
from pipeline.models import checkpoint
from pipeline.tracking import client, registry, runs, writer


class NotRecorded(RuntimeError):
    """MLflow did not take all of an evaluation."""

    exit_code = os.EX_TEMPFAIL


def record(
    found: Evaluation, config: EvaluateConfig, checkpoint_directory: str, told: Report
) -> str:
    """Leave an evaluation in MLflow; return its run id.

    Raises:
        InputError: MLflow does not answer, or does not take the model.
        NotRecorded: MLflow stopped taking what was sent.
    """
    run_id = _open(found, config, checkpoint_directory)
    status = "FAILED"
    try:
        unsent = _fill(run_id, found, config, checkpoint_directory, told)
        if unsent:
            raise NotRecorded(
                f"MLflow has not taken {unsent} items of run {run_id} (points are kept in "
                f"{_spool(run_id)}); repeat the command"
            )
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        runs.close_run(run_id, status)
    return run_id


def _open(found: Evaluation, config: EvaluateConfig, checkpoint_directory: str) -> str:
    location = storage.absolute(config.dataset)
    dataset = open_dataset(location, tars=False)
    file = dataset.label_version(found.labels)[1].splits[config.split]
    return runs.open_run(
        experiment=config.experiment or found.meta.train_config.experiment,
        name=f"{config.split} {found.labels} epoch {found.meta.epoch}",
        key=f"{checkpoint_directory}:{config.split}:{found.labels}:{config.rule}",
        resume=False,
        params=dataclasses.asdict(config),
        tags={
            **_about(found, config, checkpoint_directory),
            "code_hash": session.code_hash(),
            "dataset_digest": dataset.digest,
            "classes_sha256": dataset.classes.sha256,
            "mlflow.source.name": "jobs/evaluate_openimages.py",
            "mlflow.source.type": "JOB",
        },
        config=dataclasses.asdict(config),
        inputs=[(config.split, storage.join(location, file.path), file.sha256)],
        parent=found.meta.mlflow_run_id or None,
    )


def _fill(
    run_id: str,
    found: Evaluation,
    config: EvaluateConfig,
    checkpoint_directory: str,
    told: Report,
) -> int:
    """Send everything; return how many items were not taken."""
    owner = found.meta.mlflow_run_id if runs.knows(found.meta.mlflow_run_id) else run_id
    if config.register:
        model_id: str | None = mlflow_model.log_model(owner, checkpoint_directory, copy=True)
    else:  # the training may have left one
        model_id = mlflow_model.find(owner, checkpoint_directory)
    tracker = writer.RunWriter(
        client.tracking_uri(), run_id, str(_spool(run_id)), model_id=model_id
    )
    _send(tracker, found, config, _about(found, config, checkpoint_directory), told)
    if found.maps is not None:
        _send_maps(tracker, found, found.maps, config, told)
    publish.maps(
        tracker,
        _explained(config, checkpoint_directory),
        found.classes,
        found.meta.train_config.model.alpha_infer,
        found.meta.images_seen,
        f"epoch_{found.meta.epoch:03d}",
    )
    unsent = tracker.flush()
    if config.register and model_id and not unsent:
        metrics = publish.metrics_of(found.summaries, config.split)
        registry.register(model_id, config.register, metrics, f"{config.split}/mAP/all", run_id)
    return unsent


def _send(
    tracker: writer.RunWriter,
    found: Evaluation,
    config: EvaluateConfig,
    about: dict[str, str],
    told: Report,
) -> None:
    publish.evaluation(
        tracker,
        classes=found.classes,
        scores=found.scores,
        ap_by_name=found.ap_by_name,
        told=told,
        prefix=config.split,
        step=found.meta.images_seen,
        folder="eval",
    )
    table = report.per_class_columns(
        found.classes,
        *found.scores.supports(len(found.classes)),
        found.ap_by_name[BOOST_ON],
        found.ap_by_name[BOOST_OFF],
    )
    per_class = _written(lambda path: report.write_per_class(table, path, about))
    tracker.artifact(per_class, "eval/per_class.parquet")
    tracker.artifact(_written(lambda path: found.score_file.write(path, about)), SCORES)
    tracker.artifact(json.dumps(told.as_json(), indent=1).encode(), "eval/summary.json")
    judged = found.score_file.judged(boosted=True)
    curve = figures.by_group(judged, found.classes.groups_K, config.rule)
    chart = figures.precision_recall(curve, figures.LEVELS_L)
    tracker.artifact(cam_figures.png(chart), "eval/precision_recall.png")


def _send_maps(
    tracker: writer.RunWriter,
    found: Evaluation,
    maps: MapStudy,
    config: EvaluateConfig,
    told: Report,
) -> None:
    """The distribution of attribution scores, beside the other run's if there is one."""
    step = found.meta.images_seen
    game = told.pointing_game.items()
    tracker.log([(f"{config.split}/pointing_game/{key}", value, step) for key, value in game])
    if not config.attribution:
        return
    name = found.meta.train_config.run_name
    counted = {"run": name, **maps.attributions.as_json()}
    tracker.artifact(json.dumps(counted).encode(), ATTRIBUTION)
    shown = {name: maps.attributions}
    for other, theirs in (found.rival.attributions if found.rival else {}).items():
        shown[f"{other}, the other evaluation" if other == name else other] = theirs
    chart = figures.attribution_histogram(shown)
    tracker.artifact(cam_figures.png(chart), "eval/attribution.png")


def _about(found: Evaluation, config: EvaluateConfig, checkpoint_directory: str) -> dict[str, str]:
    """What every file says that it is of, and the run's tags say too."""
    return {
        "rule": config.rule,
        "labels": found.labels,
        "split": config.split,
        "checkpoint": checkpoint_directory,
    }


def _spool(run_id: str) -> Path:
    return Path(tempfile.gettempdir()) / f"mlflow-spool-{run_id}.jsonl"


def _written(write: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        write(path)
        return path.read_bytes()


def _explained(config: EvaluateConfig, checkpoint_directory: str) -> list[ExplainedImage]:
    model, meta = checkpoint.load_model(checkpoint_directory)
    dataset = open_dataset(config.dataset)
    split = LabelledSplit.open(
        dataset,
        config.split,
        config.labels,
        torch.device("cpu"),
        batch_size=8,
        image_size=meta.train_config.data.image_size,
    )
    return list(explain(model, split))
