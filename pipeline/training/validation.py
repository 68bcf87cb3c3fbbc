"""Score a network on the validation split and send the results to MLflow.

Used by the training workers together after an epoch, or by a separate task while they train on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.cluster.checkpoints import SCORE
from pipeline.config.train import TrainConfig
from pipeline.data.labels import FirstBatches, LabelledSplit
from pipeline.data.profile import facts, grouped_by
from pipeline.data.unreadable import LeftOut
from pipeline.evaluation.per_class import PerClass
from pipeline.evaluation.report import Report
from pipeline.evaluation.scores import gather, score
from pipeline.inference.cams import explain
from pipeline.models.cam_net import CamNet
from pipeline.models.checkpoint import Meta
from pipeline.tracking.run_log import ProgressState, TrainingLog
from pipeline.training.loop import StopRequested
from pipeline.training.prepare import VALIDATION
from pipeline.training.state import Rank
from sharding.log import optional
from sharding.manifest import Dataset

# Images that are scored together, whatever the number of ranks: it shows in a score's last bits.
_BATCH, _PICTURED_BATCH = 32, 8


class Validator:
    """Scores one rank's share of the validation split; the first rank sends the results.

    Args:
        config, dataset: of the training run.
        rank: this process.
        run_log: takes the results.
        left_out: images that cannot be decoded.
        shows_progress: whether the first rank reports the batches done.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        dataset: Dataset,
        rank: Rank,
        run_log: TrainingLog,
        left_out: LeftOut,
        shows_progress: bool = True,
    ) -> None:
        self._config, self._dataset, self._rank, self._run_log = config, dataset, rank, run_log
        self._shows_progress = shows_progress and rank.is_first
        _, version = dataset.label_version(config.labels)
        self._splits = version.splits
        self._share: LabelledSplit | None = None
        self._artist = ThreadPoolExecutor(1, thread_name_prefix="maps")
        self._drawn: Future[None] | None = None
        if VALIDATION in self._splits:
            whole = LabelledSplit.open(
                dataset,
                VALIDATION,
                config.labels,
                rank.device,
                batch_size=min(config.data.batch_size, _BATCH),
                image_size=config.data.image_size,
                threads=rank.threads,
                left_out=left_out,
            )
            self._pictured = FirstBatches(whole.in_batches(_PICTURED_BATCH))
            self._common_steps = whole.loader.plan.steps // rank.world_size
            self._share = whole.part(rank.number, rank.world_size)

    def __call__(
        self,
        model: CamNet,
        epoch: int,
        images_seen: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float]:
        """Compute metrics after an epoch, equal on every rank; the score alone without the split.

        Args:
            model: to be scored.
            epoch: it was trained for.
            images_seen: since the run began; MLflow's step.
            should_stop: asked on all ranks after every batch that all have; True there stops.

        Raises:
            StopRequested: because of ``should_stop``; nothing was sent of a part of the split.
        """
        if self._share is None:
            return self._scored(epoch, {}, float(epoch))
        steps, numbers = self._share.loader.plan.steps, itertools.count(1)

        def on_batch() -> None:
            done = next(numbers)
            if self._shows_progress:
                label = f"validate {epoch}/{self._config.epochs}"
                self._run_log.progress(ProgressState(label, done, steps))
            if done <= self._common_steps and should_stop():  # some ranks have one batch more
                raise StopRequested(f"stopped after batch {done} of the validation")

        scores = gather(score(model, self._share, on_batch))
        per_class = PerClass.of(scores, self._dataset.classes)
        report = Report(summaries=per_class.summaries(), grouped_by=grouped_by(self._dataset))
        metrics = report.metrics("val")
        if self._rank.is_first:
            from pipeline.evaluation import publish  # matplotlib: not before the first step

            self.finish()
            folder = f"eval/epoch_{epoch:03d}"
            publish.evaluation(
                self._run_log,
                report,
                per_class,
                Meta.of(
                    self._config,
                    self._dataset,
                    epoch=epoch,
                    images_seen=images_seen,
                    world_size=self._rank.world_size,
                    data=facts(self._dataset, self._config.labels),
                ),
                prefix="val",
                folder=folder,
                about=self._about(epoch),
            )
            with optional("activation maps"):
                self._send_maps(model, epoch)
        best = metrics["val/mAP/all"]
        return self._scored(epoch, metrics, -1.0 if math.isnan(best) else best)

    def _scored(self, epoch: int, metrics: dict[str, float], score: float) -> dict[str, float]:
        """Complete an epoch's metrics, and show them on the driver."""
        metrics = metrics | {"epoch": float(epoch), SCORE: score}
        if self._rank.is_first:
            self._run_log.epoch(epoch, metrics)
        return metrics

    def finish(self) -> None:
        """Wait until the pictures of the last call are drawn and sent."""
        drawn, self._drawn = self._drawn, None
        if drawn is not None:
            drawn.result()

    def _send_maps(self, model: CamNet, epoch: int) -> None:
        """Send activation maps of the same few validation images; training reads no test image.

        They are drawn in another thread, for seconds in which a GPU would do nothing.
        """
        from pipeline.evaluation import publish

        explained = list(explain(model, self._pictured, self._dataset.classes))
        about = self._about(epoch)

        def draw() -> None:
            with optional("activation maps"):
                publish.maps(self._run_log, explained, epoch=epoch, about=about)

        self._drawn = self._artist.submit(draw)

    def _about(self, epoch: int) -> str:
        return f"{self._config.run_name}, {VALIDATION}, epoch {epoch}"
