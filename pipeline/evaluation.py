"""Evaluate a checkpoint on a split: scores from Ray tasks, AP per class, mAP per group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline import beamhead, checkpoint, cluster, evaluate, mapstudy, storage
from pipeline.boxes import Boxes
from pipeline.config import EvaluateConfig
from pipeline.evaluate import Scores
from pipeline.labeljoin import LabelJoin
from pipeline.loader import Loader
from pipeline.mapstudy import MapStudy
from pipeline.metrics import Summary
from pipeline.rival import Rival
from pipeline.scorefile import ScoreFile
from pipeline.staging import open_dataset
from sharding.classes import ClassTable

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
    rival: Rival | None = None

    @property
    def score_file(self) -> ScoreFile:
        """The entries, ready to be written."""
        return ScoreFile(**vars(self.scores))


def run(config: EvaluateConfig, checkpoint_directory: str) -> Evaluation:
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
    beamhead.check(meta, checkpoint_directory, config.beam)
    table = dataset.labels(config.split, config.labels)
    labels, version = dataset.label_version(config.labels)
    boxes = Boxes.read(Path(config.boxes), dataset.classes) if config.boxes else None
    rival = Rival.read(config.against) if config.against else None
    if rival is not None:
        rival.check_entries(table)
    workers, gpus, cpus = cluster.shares(config.workers)
    samples = sum(shard.images for shard in dataset.shards(config.split))
    parts = min(workers * _PARTS_PER_WORKER, -(-samples // config.batch_size))
    work = partial(_score_part, config, checkpoint_directory, parts, cpus)
    found = cluster.run_tasks(
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
        studied = mapstudy.run(config, checkpoint_directory, boxes)
    ap_by_name = evaluate.per_class(scores, len(dataset.classes), config.rule)
    return Evaluation(
        scores=scores,
        ap_by_name=ap_by_name,
        summaries=evaluate.summaries(scores, ap_by_name, dataset.classes, config.rule),
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
    model = beamhead.attach(model, meta, checkpoint_directory, config.beam)
    loader = Loader.of_split(
        dataset,
        config.split,
        batch_size=config.batch_size,
        image_size=meta.train_config.data.image_size,
        device_id=device.index,
        threads=threads,
    ).part(part, parts)
    table = dataset.labels(config.split, config.labels)
    join = LabelJoin(table=table, num_classes=len(dataset.classes), device=device)
    return evaluate.score(model.to(device), loader, join)
