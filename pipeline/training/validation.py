"""A network scored on the validation split, and what is left in MLflow about it.

Used by the training workers together after an epoch, or by a task of its own while they go on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from pipeline.cluster.checkpoints import SCORE
from pipeline.config.train import TrainConfig
from pipeline.data.labels import LabelledSplit
from pipeline.data.unreadable import LeftOut
from pipeline.evaluation import publish
from pipeline.evaluation.per_class import PerClass
from pipeline.evaluation.report import Report
from pipeline.evaluation.scores import gather, score
from pipeline.inference.cams import explain
from pipeline.models.cam_net import CamNet
from pipeline.tracking.run_log import ProgressState, TrainingLog
from pipeline.training.loop import LeftEarly
from sharding.manifest import Dataset

# Images that are scored together, whatever the number of ranks: it shows in a score's last bits.
_BATCH = 32
VALIDATION = "validation"
TEST = "test"


class Validator:
    """One rank of a validation.

    Args:
        config: of the training run.
        dataset: what it trains on.
        device, threads: what to decode and compute with.
        tracker: of the run; only the first rank sends to it.
        left_out: images that cannot be decoded.
        rank, world_size: this rank's share of the batches.
        shown: whether to tell of the progress.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        dataset: Dataset,
        device: torch.device,
        threads: int,
        tracker: TrainingLog,
        left_out: LeftOut,
        rank: int = 0,
        world_size: int = 1,
        shown: bool = True,
    ) -> None:
        self.config, self.dataset, self.tracker, self.rank = config, dataset, tracker, rank
        self._shown = shown and rank == 0
        self._device = device
        self._options = {
            "image_size": config.data.image_size,
            "threads": threads,
            "left_out": left_out,
        }
        _, version = dataset.label_version(config.labels)
        self._splits = version.splits
        self._share: LabelledSplit | None = None
        if VALIDATION in self._splits:
            whole = self._open(VALIDATION, batch_size=min(config.data.batch_size, _BATCH))
            self._rounds = whole.loader.plan.steps // world_size
            self._share = whole.part(rank, world_size)

    def __call__(
        self,
        model: CamNet,
        *,
        epoch: int,
        images_seen: int,
        leaving: Callable[[], bool] = lambda: False,
    ) -> dict[str, float]:
        """Metrics after an epoch, equal on every rank; the score alone without such a split.

        Args:
            model: to be scored.
            epoch: it was trained for.
            images_seen: since the run began; MLflow's step.
            leaving: asked on all ranks after every batch that all have; True there leaves.

        Raises:
            LeftEarly: because of ``leaving``; nothing was told of a part of the split.
        """
        if self._share is None:
            return {"epoch": float(epoch), SCORE: float(epoch)}
        steps, numbers = self._share.loader.plan.steps, itertools.count(1)

        def on_batch() -> None:
            done = next(numbers)
            self._show(epoch, done, steps)
            if done <= self._rounds and leaving():  # some ranks have one batch more
                raise LeftEarly(f"left at batch {done} of the validation")

        scores = gather(score(model, self._share, on_batch))
        per_class = PerClass.of(scores, self.dataset.classes)
        report = Report(summaries=per_class.summaries())
        metrics = report.metrics("val")
        if self.rank == 0:
            publish.evaluation(
                self.tracker,
                report,
                per_class,
                prefix="val",
                step=images_seen,
                folder=f"eval/epoch_{epoch:03d}",
            )
            self._picture(model, epoch, images_seen)
        best = metrics["val/mAP/all"]
        return metrics | {"epoch": float(epoch), SCORE: -1.0 if math.isnan(best) else best}

    def _picture(self, model: CamNet, epoch: int, images_seen: int) -> None:
        """Maps of a few test images (validation images without such a split), always the same."""
        pictured = self._open(TEST if TEST in self._splits else VALIDATION, batch_size=8)
        explained = explain(model, pictured, self.dataset.classes)
        publish.maps(self.tracker, explained, images_seen, f"epoch_{epoch:03d}")

    def _open(self, split: str, **options: Any) -> LabelledSplit:
        return LabelledSplit.open(
            self.dataset, split, self.config.labels, self._device, **self._options, **options
        )

    def _show(self, epoch: int, step: int, steps: int) -> None:
        if self._shown:
            label = f"validate {epoch}/{self.config.epochs}"
            self.tracker.progress(ProgressState(label=label, step=step, steps=steps))
