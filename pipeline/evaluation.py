"""Evaluate a checkpoint on a split: scores from Ray tasks, AP per class, mAP per group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline import beamhead, checkpoint, cluster, evaluate, mapstudy, storage
from pipeline.config import EvaluateConfig
from pipeline.evaluate import Scores
from pipeline.labeljoin import LabelJoin
from pipeline.loader import Loader
from pipeline.mapstudy import MapStudy
from pipeline.metrics import Summary
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
        meta: the checkpoint's.
        maps: what the activation maps are like, where that was asked for.
    """

    scores: Scores
    ap_by_name: Mapping[str, np.ndarray]
    summaries: Mapping[str, Summary]
    classes: ClassTable
    meta: checkpoint.Meta
    maps: MapStudy | None = None


def run(config: EvaluateConfig, checkpoint_directory: str) -> Evaluation:
    """Evaluate on the connected cluster; any number of equal workers gives the same bits.

    Raises:
        InputError: checkpoint, dataset or split is missing or they do not fit each other.
    """
    config = dataclasses.replace(config, dataset=storage.absolute(config.dataset))
    dataset = open_dataset(config.dataset)
    meta = checkpoint.read_meta(checkpoint_directory)
    meta.check_classes(dataset.classes, checkpoint_directory)
    beamhead.check(meta, checkpoint_directory, config.beam)
    dataset.labels(config.split, config.labels)
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
    studied = (
        mapstudy.run(config, checkpoint_directory) if config.attribution or config.boxes else None
    )
    ap_by_name = evaluate.per_class(scores, len(dataset.classes), config.rule)
    return Evaluation(
        scores=scores,
        ap_by_name=ap_by_name,
        summaries=evaluate.summaries(scores, ap_by_name, dataset.classes, config.rule),
        classes=dataset.classes,
        meta=meta,
        maps=studied,
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
