"""Record an evaluation in MLflow, as a child of the run that trained, closed however it ends."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os

import numpy as np

from pipeline.cluster import session
from pipeline.data import profile
from pipeline.evaluation import figures, publish
from pipeline.evaluation.references import ATTRIBUTION, SCORES
from pipeline.evaluation.run import Evaluation, Subject
from pipeline.inference import cam_figures, mlflow_model
from pipeline.models import operating_points
from pipeline.tables import spaced
from pipeline.tracking import client, registry, runs, writer
from sharding.errors import InputError
from sharding.log import optional


class NotRecorded(RuntimeError):
    """MLflow did not take all of an evaluation."""

    exit_code = os.EX_TEMPFAIL


def record(evaluation: Evaluation) -> str:
    """Record an evaluation in MLflow; return its run id.

    Raises:
        InputError: MLflow does not answer, or does not take the model; or the thresholds are not
            in the checkpoint.
        NotRecorded: MLflow stopped taking what was sent.
    """
    run_id = _open(evaluation.subject)
    with runs.closing(run_id):
        unsent = _fill(run_id, evaluation)
        if unsent:
            raise NotRecorded(
                f"MLflow has not taken {unsent} items of run {run_id} (points are kept in "
                f"{writer.spool_of(run_id)}); repeat the command"
            )
    return run_id


def _open(subject: Subject) -> str:
    config, meta, dataset = subject.config, subject.meta, subject.dataset
    return runs.open_run(
        experiment=config.experiment or meta.train_config.experiment,
        name=f"{config.split} {subject.labels} epoch {meta.epoch}{_variant(subject)}",
        key=f"{subject.checkpoint}:{config.split}:{subject.labels}:{config.rule}{_variant(subject)}",
        resume=False,
        params=dataclasses.asdict(config),
        tags={
            **_about(subject),
            **profile.tags(dataset, subject.labels, meta.train_config),
            "code_hash": session.code_hash(),
            "mlflow.source.name": "jobs/evaluate_openimages.py",
            "mlflow.source.type": "JOB",
        },
        config=dataclasses.asdict(config),
        inputs=profile.inputs(dataset, config.dataset, subject.labels, [config.split]),
        parent=meta.mlflow_run_id or None,
    )


def _variant(subject: Subject) -> str:
    """Name the slope of BoostLU and the beam, where the checkpoint is not scored as it is."""
    config, own = subject.config, subject.meta.train_config.model.alpha_infer
    slope = "" if config.alpha_infer in (None, own) else f" alpha {config.alpha_infer:g}"
    return slope + (f" beam {config.beam}" if config.beam else "")


def _fill(run_id: str, evaluation: Evaluation) -> int:
    """Send everything; return how many items were not taken."""
    subject = evaluation.subject
    config, meta = subject.config, subject.meta
    owner = meta.mlflow_run_id if runs.knows(meta.mlflow_run_id) else run_id
    model_id: str | None = None
    refusal: InputError | None = None
    try:
        if evaluation.refusal is not None:
            raise evaluation.refusal
        if config.register:
            model_id = mlflow_model.log_model(owner, subject.checkpoint, copy=True)
        elif not _variant(subject):  # the training may have left one
            model_id = mlflow_model.find(owner, subject.checkpoint)
        if config.thresholds and model_id:
            mlflow_model.add_thresholds(model_id, subject.checkpoint)
    except InputError as error:  # raised when the numbers are kept
        refusal = error
    log = writer.RunWriter(
        client.tracking_uri(), run_id, writer.spool_of(run_id), model_id=model_id
    )
    publish.evaluation(
        log,
        evaluation.report,
        evaluation.per_class,
        meta,
        prefix=config.split,
        folder="eval",
        about=_title(subject),
    )
    _send_files(log, evaluation)
    _send_points(log, evaluation)
    _send_maps(log, evaluation)
    unsent = log.flush()
    if refusal is not None:
        raise refusal
    if config.register and model_id and not unsent:
        registry.register(
            model_id,
            config.register,
            evaluation.report.metrics(config.split),
            f"{config.split}/mAP/all",
            run_id,
            description=spaced(publish.card(evaluation.report, meta, config.split)),
            judged_by=_judged_by(evaluation),
        )
    return unsent


def _judged_by(evaluation: Evaluation) -> str:
    """Name what the means are of: those of other labels, images or rules do not compare."""
    subject, scores = evaluation.subject, evaluation.scores
    order = np.lexsort((scores.classes_E, scores.image_ids_E))
    digest = hashlib.sha256(subject.meta.classes_sha256.encode())
    for column_E in (scores.image_ids_E, scores.classes_E.astype(np.int64), scores.labels_E):
        digest.update(column_E[order].tobytes())
    entries = f"{subject.config.split} labels {subject.labels} ({digest.hexdigest()[:12]})"
    return f"{entries}, rule {subject.config.rule}"


def _send_files(log: writer.RunWriter, evaluation: Evaluation) -> None:
    """Send what the numbers can be computed from again, and the precision-recall chart."""
    subject, about = evaluation.subject, _about(evaluation.subject)
    log.artifact(evaluation.per_class.to_parquet(about), "eval/per_class.parquet")
    log.artifact(evaluation.scores.to_parquet(about), SCORES)
    log.artifact(json.dumps(evaluation.report.as_json(), indent=1).encode(), "eval/summary.json")
    groups_K, rule = subject.dataset.classes.groups_K, subject.config.rule
    with optional("precision-recall chart"):
        chart = figures.precision_recall(figures.recall_curves(evaluation.scores, groups_K, rule))
        log.artifact(cam_figures.png(chart, _title(subject)), "eval/precision_recall.png")


def _send_points(log: writer.RunWriter, evaluation: Evaluation) -> None:
    """Send the thresholds, how they do against one half, and how reliable probabilities are."""
    subject, decisions = evaluation.subject, evaluation.decisions
    if decisions is None:
        return
    points, step = decisions.points, subject.meta.images_seen
    log.artifact(points.to_json().encode(), f"eval/{operating_points.FILE}")
    for name, means in decisions.f1.items():
        log.log([(f"{subject.config.split}/f1_{name}/{m}", v, step) for m, v in means.items()])
    with optional("reliability chart"):
        chart = figures.reliability(decisions.entries, points.temperatures_K)
        log.artifact(cam_figures.png(chart, _title(subject)), "eval/reliability.png")


def _send_maps(log: writer.RunWriter, evaluation: Evaluation) -> None:
    """Send pictures of maps, the pointing game, and attribution scores beside the baseline's."""
    subject, meta = evaluation.subject, evaluation.subject.meta
    game = evaluation.report.pointing_game.items()
    prefix = f"{subject.config.split}/pointing_game"
    log.log([(f"{prefix}/{key}", value, meta.images_seen) for key, value in game])
    with optional("maps"):
        publish.maps(log, evaluation.explained, epoch=meta.epoch, about=_title(subject))
    if evaluation.maps is None or not subject.config.attribution:
        return
    name, attributions = meta.train_config.run_name, evaluation.maps.attributions
    log.artifact(json.dumps({"run": name, **attributions.as_json()}).encode(), ATTRIBUTION)
    shown = {name: attributions}
    for other, theirs in (subject.baseline.attributions if subject.baseline else {}).items():
        shown[f"{other}, the baseline" if other == name else other] = theirs
    with optional("chart of attribution scores"):
        chart = figures.attribution_histogram(shown)
        log.artifact(cam_figures.png(chart, _title(subject)), "eval/attribution.png")


def _title(subject: Subject) -> str:
    """What every figure says that it is of."""
    run, epoch = subject.meta.train_config.run_name, subject.meta.epoch
    return f"{run}, {subject.config.split}, epoch {epoch}{_variant(subject)}"


def _about(subject: Subject) -> dict[str, str]:
    """What every file and the run's tags say that they are of."""
    return {
        "rule": subject.config.rule,
        "labels": subject.labels,
        "split": subject.config.split,
        "checkpoint": subject.checkpoint,
        "epoch": str(subject.meta.epoch),
        "classes_sha256": subject.meta.classes_sha256,
    }
