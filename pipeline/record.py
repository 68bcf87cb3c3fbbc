"""What is told of an evaluation: the table on the terminal, and everything in MLflow."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pipeline import (
    bootstrap,
    checkpoint,
    curves,
    figures,
    loggedmodel,
    publish,
    registry,
    report,
    significance,
    storage,
    targets,
    tracking,
)
from pipeline.attribution import Attributions
from pipeline.bootstrap import Interval
from pipeline.config import EvaluateConfig
from pipeline.evaluate import BOOST_OFF, BOOST_ON
from pipeline.evaluation import Evaluation
from pipeline.explain import ExplainedImage, explain
from pipeline.labeljoin import LabelJoin
from pipeline.loader import Loader
from pipeline.mapstudy import MapStudy
from pipeline.scorefile import ScoreFile
from pipeline.staging import open_dataset
from sharding.errors import InputError

SCORES = "eval/scores.parquet"
ATTRIBUTION = "eval/attribution.json"
# The papers' tables speak of this many trainable classes of Open Images V3.
_V3_CLASSES = 5000


Intervals = Mapping[str, Mapping[str, Interval]] | None


def intervals_of(found: Evaluation, config: EvaluateConfig) -> Intervals:
    """95 % intervals of every mean by name of summary, None where none are asked for."""
    if not config.intervals:
        return None
    scores, groups_K = score_file(found), found.classes.groups_K
    return {
        name: bootstrap.intervals(
            found.summaries[name],
            bootstrap.resample(
                scores.judged(boosted=name == BOOST_ON),
                groups_K,
                rule=config.rule,
                replicates=config.intervals,
            ),
        )
        for name in found.summaries
    }


def tell(found: Evaluation, config: EvaluateConfig, intervals: Intervals) -> str:
    """The table for the terminal: groups, intervals and a comparison where asked for."""
    told = report.terminal_table(found.summaries, intervals=intervals, published=_published(found))
    if found.maps is not None:
        game = found.maps.pointing_game(found.classes.groups_K)
        if game:
            told += f"\npointing game   {100 * game['all']:.1f} % of maps, mean over classes"
    if config.against is None:
        return told
    ours, theirs = score_file(found).judged(boosted=True), _other(config.against)
    differences = significance.compare(
        theirs.judged(boosted=True), ours, found.classes.groups_K, rule=config.rule
    )
    return f"{told}\n\n{report.difference_table(differences, config.against, 'this run')}"


def record(
    found: Evaluation, config: EvaluateConfig, checkpoint_directory: str, intervals: Intervals
) -> str:
    """Leave an evaluation in MLflow, as a child of the run that trained; return its run id."""
    location = storage.absolute(config.dataset)
    dataset = open_dataset(location, tars=False)
    labels, version = dataset.label_version(config.labels)
    file = version.splits[config.split]
    run_id = tracking.open_run(
        experiment=config.experiment or found.meta.train_config.experiment,
        name=f"{config.split} {labels} epoch {found.meta.epoch}",
        key=f"{checkpoint_directory}:{config.split}:{labels}:{config.rule}",
        resume=False,
        params=dataclasses.asdict(config),
        tags={
            "dataset_digest": dataset.digest,
            "checkpoint": checkpoint_directory,
            "mlflow.source.name": "jobs/evaluate_openimages.py",
            "mlflow.source.type": "JOB",
        },
        config=dataclasses.asdict(config),
        inputs=[(config.split, storage.join(location, file.path), file.sha256)],
        parent=found.meta.mlflow_run_id or None,
    )
    owner = found.meta.mlflow_run_id if tracking.knows(found.meta.mlflow_run_id) else run_id
    if config.register:
        model_id: str | None = loggedmodel.log_model(owner, checkpoint_directory, copy=True)
    else:  # the training may have left one
        model_id = loggedmodel.find(owner, checkpoint_directory)
    with tempfile.TemporaryDirectory() as directory:
        tracker = tracking.Tracker(
            tracking.tracking_uri(),
            run_id,
            f"{directory}/spool.jsonl",
            model_id=model_id,
        )
        _send(tracker, found, config, intervals)
        if found.maps is not None:
            _send_maps(tracker, found, found.maps, config)
        publish.maps(
            tracker,
            _explained(config, checkpoint_directory),
            found.classes,
            found.meta.train_config.model.alpha_infer,
            found.meta.images_seen,
            f"epoch_{found.meta.epoch:03d}",
        )
        unsent = tracker.flush()
    if config.register and model_id:
        metrics = publish.metrics_of(found.summaries, config.split)
        registry.register(model_id, config.register, metrics, f"{config.split}/mAP/all", run_id)
    tracking.close_run(run_id, "FAILED" if unsent else "FINISHED")
    return run_id


def score_file(found: Evaluation) -> ScoreFile:
    """The evaluation's entries, ready to be written."""
    scores = found.scores
    return ScoreFile(
        image_ids_E=scores.image_ids_E,
        classes_E=scores.classes_E,
        labels_E=scores.labels_E,
        raw_E=scores.raw_E,
        boosted_E=scores.boosted_E,
    )


def _send(
    tracker: tracking.Tracker, found: Evaluation, config: EvaluateConfig, intervals: Intervals
) -> None:
    publish.evaluation(
        tracker,
        classes=found.classes,
        scores=found.scores,
        ap_by_name=found.ap_by_name,
        summaries=found.summaries,
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
    tracker.artifact(
        _written(lambda path: report.write_per_class(table, path)), "eval/per_class.parquet"
    )
    tracker.artifact(_written(score_file(found).write), SCORES)
    summary = report.as_json(found.summaries, intervals=intervals)
    tracker.artifact(json.dumps(summary, indent=1).encode(), "eval/summary.json")
    judged = score_file(found).judged(boosted=True)
    curve = curves.by_group(judged, found.classes.groups_K, config.rule)
    chart = figures.precision_recall(curve, curves.LEVELS_L)
    tracker.artifact(figures.png(chart), "eval/precision_recall.png")


def _send_maps(
    tracker: tracking.Tracker, found: Evaluation, maps: MapStudy, config: EvaluateConfig
) -> None:
    """The distribution of attribution scores, beside the other run's if there is one."""
    step = found.meta.images_seen
    game = maps.pointing_game(found.classes.groups_K)
    tracker.log(
        [(f"{config.split}/pointing_game/{key}", value, step) for key, value in game.items()]
    )
    if not config.attribution:
        return
    name = found.meta.train_config.run_name
    told = {"run": name, **maps.attributions.as_json()}
    tracker.artifact(json.dumps(told).encode(), ATTRIBUTION)
    shown = {name: maps.attributions, **_other_attributions(config.against, name)}
    chart = figures.attribution_histogram(shown)
    tracker.artifact(figures.png(chart), "eval/attribution.png")


def _other_attributions(against: str | None, ours: str) -> dict[str, Attributions]:
    """What the other evaluation counted, by the name of its run; empty if it counted none."""
    if against is None:
        return {}
    with tempfile.TemporaryDirectory() as directory:
        try:
            beside = Path(against).with_name(Path(ATTRIBUTION).name)
            path = (
                beside
                if Path(against).is_file()
                else Path(tracking.download(against, ATTRIBUTION, directory))
            )
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (InputError, OSError):
            return {}
    name = raw["run"] if raw["run"] != ours else f"{ours}, the other evaluation"
    return {name: Attributions.from_json(raw, str(path))}


def _published(found: Evaluation) -> tuple[targets.Published, ...]:
    """The papers' rows for this method, where the dataset is Open Images V3 itself."""
    if len(found.classes) != _V3_CLASSES:
        return ()
    try:
        return targets.published(found.meta.train_config.method)
    except InputError:  # a method that the papers' table does not have
        return ()


def _other(against: str) -> ScoreFile:
    if Path(against).is_file():
        return ScoreFile.read(against)
    with tempfile.TemporaryDirectory() as directory:
        return ScoreFile.read(tracking.download(against, SCORES, directory))


def _written(write: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        write(path)
        return path.read_bytes()


def _explained(config: EvaluateConfig, checkpoint_directory: str) -> list[ExplainedImage]:
    model, meta = checkpoint.load_model(checkpoint_directory)
    dataset = open_dataset(config.dataset)
    loader = Loader.of_split(
        dataset, config.split, batch_size=8, image_size=meta.train_config.data.image_size
    )
    table = dataset.labels(config.split, config.labels)
    join = LabelJoin(table=table, num_classes=len(dataset.classes), device=torch.device("cpu"))
    return list(explain(model, loader, join))
