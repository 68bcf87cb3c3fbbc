"""What the activation maps of a split are like: their scores' distribution, where they point."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import numpy.typing as npt
import torch

from pipeline import checkpoint, cluster
from pipeline.attribution import NONE, Attributions
from pipeline.boxes import Boxes, points_inside
from pipeline.config import EvaluateConfig
from pipeline.labeljoin import LabelJoin
from pipeline.loader import Batch, Loader
from pipeline.model import CamNet
from pipeline.staging import open_dataset
from sharding.classes import NUM_GROUPS
from sharding.labels import POSITIVE

_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class MapStudy:
    """Of the maps of verified positives, before the boost.

    Attributes:
        attributions: scores of the first images' maps.
        hits_K, pointed_K: int64; maps that point into a box of their class, and maps with a box.
    """

    attributions: Attributions
    hits_K: npt.NDArray[np.int64]
    pointed_K: npt.NDArray[np.int64]

    def __add__(self, other: MapStudy) -> MapStudy:
        return MapStudy(
            attributions=self.attributions + other.attributions,
            hits_K=self.hits_K + other.hits_K,
            pointed_K=self.pointed_K + other.pointed_K,
        )

    def pointing_game(self, groups_K: npt.NDArray[np.integer]) -> dict[str, float]:
        """Mean over classes of the share of hits, by group and over all; empty without boxes."""
        seen_K = self.pointed_K > 0
        if not seen_K.any():
            return {}
        rate_K = self.hits_K / np.maximum(1, self.pointed_K)
        means = {"all": float(rate_K[seen_K].mean())}
        for group in range(1, NUM_GROUPS + 1):
            chosen_K = seen_K & (groups_K == group)
            if chosen_K.any():
                means[f"group_{group}"] = float(rate_K[chosen_K].mean())
        return means


@torch.inference_mode()
def study(
    model: CamNet, loader: Loader, join: LabelJoin, images: int, boxes: Boxes | None = None
) -> MapStudy:
    """Study a part of a split: scores of the split's first ``images``, all boxes of the part."""
    model.eval()
    hits_K, pointed_K = (np.zeros(join.num_classes, np.int64) for _ in range(2))
    attributions = NONE
    places = itertools.count(loader.first, loader.batch_size)
    for first, batch in zip(places, loader.epoch(0), strict=False):
        if boxes is None and first >= images:
            break
        for row, class_index, cam_HW in _positive_maps(model, batch, join):
            if first + row < images:
                attributions += Attributions.of(cam_HW)
            if boxes is None:
                continue
            edges_M4 = boxes.of(int(batch.image_ids_B[row]), class_index)
            pointed_K[class_index] += len(edges_M4) > 0
            hits_K[class_index] += points_inside(cam_HW, edges_M4)
    return MapStudy(attributions=attributions, hits_K=hits_K, pointed_K=pointed_K)


def run(config: EvaluateConfig, checkpoint_directory: str, boxes: Boxes | None) -> MapStudy:
    """Study a checkpoint's maps on the connected cluster, as `evaluation.run` scores it."""
    dataset = open_dataset(config.dataset)
    workers, gpus, cpus = cluster.shares(config.workers)
    samples = sum(shard.images for shard in dataset.shards(config.split))
    batches = -(-samples // _BATCH)
    if boxes is None:
        batches = min(batches, -(-config.attribution // _BATCH))
    parts = min(workers, batches)
    work = partial(_study_part, config, checkpoint_directory, boxes, batches * _BATCH, parts, cpus)
    found = cluster.run_tasks(
        work, range(parts), num_cpus=cpus, num_gpus=gpus, label=f"maps of {config.split}"
    )
    return reduce(operator.add, found)


def _study_part(
    config: EvaluateConfig,
    checkpoint_directory: str,
    boxes: Boxes | None,
    images: int,
    parts: int,
    threads: int,
    part: int,
) -> MapStudy:
    torch.set_num_threads(threads)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    dataset = open_dataset(config.dataset)
    model, meta = checkpoint.load_model(checkpoint_directory)
    loader = Loader.of_split(
        dataset,
        config.split,
        batch_size=_BATCH,
        image_size=meta.train_config.data.image_size,
        device_id=device.index,
        threads=threads,
    ).part(part, parts, images)
    table = dataset.labels(config.split, config.labels)
    join = LabelJoin(table=table, num_classes=len(dataset.classes), device=device)
    return study(model.to(device), loader, join, config.attribution, boxes)


def _positive_maps(
    model: CamNet, batch: Batch, join: LabelJoin
) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
    """(row, class, map) of the batch's verified positives."""
    if not len(batch):
        return
    entries = join.observed(batch.image_ids_B)
    positive_E = entries.states_E == POSITIVE
    cam_BKHW = model.head.cam(model.features(batch.images_BHWC))
    rows_P, classes_P = entries.rows_E[positive_E], entries.classes_E[positive_E]
    cam_PHW = cam_BKHW[torch.from_numpy(rows_P), torch.from_numpy(classes_P)].float().cpu().numpy()
    yield from zip(rows_P.tolist(), classes_P.tolist(), cam_PHW, strict=True)
