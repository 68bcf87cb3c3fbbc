"""Evaluate a checkpoint on a split: scores from Ray tasks, AP per class, mAP per group.

What is told of an evaluation: intervals, the papers' rows, the difference from another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline import storage
from pipeline.cluster import session, tasks
from pipeline.config.commands import EvaluateConfig
from pipeline.data.labels import LabelledSplit
from pipeline.data.staging import open_dataset
from pipeline.evaluation import attribution, bootstrap, references
from pipeline.evaluation.attribution import MapStudy
from pipeline.evaluation.bootstrap import Interval
from pipeline.evaluation.metrics import Summary
from pipeline.evaluation.pointing_game import Boxes
from pipeline.evaluation.references import Baseline, Published
from pipeline.evaluation.report import Comparison, Report
from pipeline.evaluation.scores import BOOST_ON, ScoreFile, Scores, per_class, score, summaries
from pipeline.inference import beam
from pipeline.models import checkpoint
from sharding.classes import ClassTable
from sharding.errors import InputError
from sharding.log import info

# Several parts per worker even out slow machines and make progress visible.
_PARTS_PER_WORKER = 4


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        scores: annotated entries with both logits.
        ap_by_name: AP per class (float64), keyed "BoostLU off" and "BoostLU on".
        summaries: mAP per group and overall, under the same keys.
        classes: the class table used.
        labels: name of the label version judged by.
        release: the annotation release it was made from.
        meta: the checkpoint's.
        maps: what the activation maps are like, where that was asked for.
        rival: the evaluation to compare with, where that was asked for.
    """

    scores: Scores
    ap_by_name: Mapping[str, np.ndarray]
    summaries: Mapping[str, Summary]
    classes: ClassTable
    labels: str
    release: str
    meta: checkpoint.Meta
    maps: MapStudy | None = None
    rival: Baseline | None = None

    @property
    def score_file(self) -> ScoreFile:
        """The entries, ready to be written."""
        return ScoreFile(**vars(self.scores))


def evaluate(config: EvaluateConfig, checkpoint_directory: str) -> Evaluation:
    """Evaluate on the connected cluster; any number of equal workers gives the same bits.

    Everything that the configuration names is read before the first image is scored.

    Raises:
        InputError: checkpoint, dataset, split, boxes or the other evaluation are missing or do not
            fit each other.
    """
    config = dataclasses.replace(config, dataset=storage.absolute(config.dataset))
    dataset = open_dataset(config.dataset)
    meta = checkpoint.read_meta(checkpoint_directory)
    meta.check_classes(dataset.classes, checkpoint_directory)
    beam.check(meta, checkpoint_directory, config.beam)
    table = dataset.labels(config.split, config.labels)
    labels, version = dataset.label_version(config.labels)
    boxes = Boxes.read(Path(config.boxes), dataset.classes) if config.boxes else None
    rival = Baseline.read(config.against) if config.against else None
    if rival is not None:
        rival.check_entries(table)
    workers, gpus, cpus = session.shares(config.workers)
    samples = sum(shard.images for shard in dataset.shards(config.split))
    parts = min(workers * _PARTS_PER_WORKER, -(-samples // config.batch_size))
    work = partial(_score_part, config, checkpoint_directory, parts, cpus)
    found = tasks.run_tasks(
        work,
        range(parts),
        num_cpus=cpus,
        num_gpus=gpus,
        max_in_flight=workers,
        label=f"evaluate {config.split}",
    )
    scores = Scores.concatenate(list(found))
    studied = None
    if config.attribution or boxes is not None:
        studied = attribution.run(config, checkpoint_directory, boxes)
    ap_by_name = per_class(scores, len(dataset.classes), config.rule)
    return Evaluation(
        scores=scores,
        ap_by_name=ap_by_name,
        summaries=summaries(scores, ap_by_name, dataset.classes, config.rule),
        classes=dataset.classes,
        labels=labels,
        release=version.release,
        meta=meta,
        maps=studied,
        rival=rival,
    )


def _score_part(
    config: EvaluateConfig, checkpoint_directory: str, parts: int, threads: int, part: int
) -> Scores:
    """Score one part of the split; runs in a Ray task."""
    torch.set_num_threads(threads)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    dataset = open_dataset(config.dataset)
    model, meta = checkpoint.load_model(checkpoint_directory)
    model = beam.attach(model, meta, checkpoint_directory, config.beam)
    images = LabelledSplit.open(
        dataset,
        config.split,
        config.labels,
        device,
        batch_size=config.batch_size,
        image_size=meta.train_config.data.image_size,
        threads=threads,
    ).part(part, parts)
    return score(model.to(device), images)


# The papers' tables are of the test split with this many trainable classes.
_PAPERS_RELEASE, _PAPERS_SPLIT, _PAPERS_CLASSES = "v3", "test", 5000


def report(found: Evaluation, config: EvaluateConfig) -> Report:
    """The evaluation with everything that its configuration asks for."""
    maps, groups_K = found.maps, found.classes.groups_K
    return Report(
        summaries=found.summaries,
        intervals=_intervals(found, config),
        published=published(found, config.split),
        comparison=_comparison(found, config),
        pointing_game=maps.pointing_game(groups_K) if maps else {},
    )


def published(found: Evaluation, split: str) -> Sequence[Published]:
    """The papers' rows for this method, where what was evaluated is what theirs are of."""
    evaluated = (found.release, split, len(found.classes))
    if evaluated != (_PAPERS_RELEASE, _PAPERS_SPLIT, _PAPERS_CLASSES):
        return ()
    try:
        return references.published(found.meta.train_config.method)
    except InputError:  # a method that the papers' table does not have
        return ()


def _intervals(found: Evaluation, config: EvaluateConfig) -> Mapping[str, Mapping[str, Interval]]:
    """95 % intervals of every mean by name of summary, none where none are asked for."""
    if not config.intervals:
        return {}
    groups_K = found.classes.groups_K
    return {
        name: bootstrap.intervals(
            summary,
            bootstrap.resample(
                found.score_file.judged(boosted=name == BOOST_ON),
                groups_K,
                rule=config.rule,
                replicates=config.intervals,
            ),
        )
        for name, summary in found.summaries.items()
    }


def _comparison(found: Evaluation, config: EvaluateConfig) -> Comparison | None:
    if found.rival is None:
        return None
    theirs, ours = (file.judged(boosted=True) for file in (found.rival.scores, found.score_file))
    try:
        differences = bootstrap.compare(theirs, ours, found.classes.groups_K, rule=config.rule)
    except InputError as error:  # an image that only one of them could read: no reason to end
        info(f"no comparison with {found.rival.name}: {error}", "WARNING")
        return None
    return Comparison(first=found.rival.name, second="this run", differences=differences)
