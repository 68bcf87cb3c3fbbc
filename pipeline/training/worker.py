"""What one rank holds and does between two reports: train an epoch, validate, save, restore."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from pipeline import methods
from pipeline.audit import candidates, corrections
from pipeline.audit.collector import Collector
from pipeline.cluster.checkpoints import SCORE, UNSCORED
from pipeline.config.train import TrainConfig
from pipeline.data.labels import LabelledEpoch, LabelledSplit
from pipeline.data.unreadable import LeftOut
from pipeline.methods.large_loss import LargeLossCorrectPermanent
from pipeline.methods.protocol import StepResult
from pipeline.models import cam_net, checkpoint
from pipeline.tracking.run_log import TrainingLog
from pipeline.training.loop import Pause, StepStats, train_epoch
from pipeline.training.progress import MetricsLogger
from pipeline.training.state import RankState, TrainState
from pipeline.training.step import TrainStep
from pipeline.training.timing import profiled
from pipeline.training.validation import Validator
from sharding.manifest import Dataset

_log = logging.getLogger(__name__)


class Worker:
    """One rank's model, data and position; `begin`, `train`, `validate`, `save`.

    Attributes:
        unscored: whether it began from the end of an epoch that was not validated there.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        dataset: Dataset,
        rank: int,
        world_size: int,
        device: torch.device,
        threads: int,
        tracker: TrainingLog,
        run_id: str,
    ) -> None:
        self.config, self.dataset = config, dataset
        self.rank, self.world_size, self.device = rank, world_size, device
        self.tracker, self.run_id = tracker, run_id
        self.epoch, self.images_seen, self.unscored = 0, 0, False
        self.position: RankState | None = None
        K = len(dataset.classes)
        cam_net.seed_everything(config.seed)
        self.trained = TrainState(config, K, device)
        self.model, self.optimizer = self.trained.model, self.trained.optimizer
        self.teller = MetricsLogger(config, rank, tracker, device)
        left_out = LeftOut(tracker.artifact)
        self.images = LabelledSplit.open(
            dataset,
            "train",
            config.labels,
            device,
            train=True,
            batch_size=config.data.batch_size // world_size,
            image_size=config.data.image_size,
            augmentation=config.data.augmentation,
            shuffle_buffer=config.data.shuffle_buffer,
            seed=config.seed,
            rank=rank,
            world_size=world_size,
            threads=threads,
            hardware_share=config.data.hardware_share,
            left_out=left_out,
        )
        self.method = methods.create_for(
            config, mids=dataset.classes.mids, num_images=len(self.images.join.table)
        )
        if isinstance(self.method, methods.WatchesHead):
            self.method.attach(self.model.head)
        self.collector = Collector(config.candidates_per_epoch, device)
        self.validator = Validator(
            config=config,
            dataset=dataset,
            device=device,
            threads=threads,
            tracker=tracker,
            left_out=left_out,
            rank=rank,
            world_size=world_size,
        )

    def begin(self, model: torch.nn.Module, latest: str | None) -> None:
        """Train ``model`` (this worker's network, wrapped for DDP), from a checkpoint if any.

        The checkpoint may have been written by any number of workers, under DDP or FSDP.
        """
        self.step = TrainStep(
            model=model,
            method=self.method,
            optimizer=self.optimizer,
            config=self.config.optimizer,
            averaged=self.trained.averaged,
        )
        if latest is None:
            return
        meta = checkpoint.read_meta(latest)
        meta.check_classes(self.dataset.classes, latest)
        meta.check_labels(self.dataset.label_version(self.config.labels)[0], latest)
        state = checkpoint.load_training(latest)
        self.trained.load(state)
        if meta.step:  # before its state: an epoch may begin with a change of it
            self.method.begin_epoch(meta.epoch + 1)
        self.method.load_state_dict(state["method"])
        self.step.load_state_dict(state["step"])
        self.epoch, self.images_seen = meta.epoch, meta.images_seen
        self.unscored = not meta.step and meta.metrics.get(SCORE) == UNSCORED
        change = meta.change(self.world_size, self.dataset.shards_digest("train"))
        if change and self.rank == 0:
            _log.warning("%s", change)
        if meta.step and change:
            self.images_seen -= meta.epoch_images
        elif meta.step:
            state = checkpoint.load_rank(latest, self.rank)
            self.position = RankState.from_state_dict(state)

    def train(
        self,
        epoch: int,
        on_pause: Callable[[], None] = lambda: None,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """One epoch, or the rest of it.

        Args:
            epoch: counted from 1.
            on_pause: called where the epoch may be saved on the way.
            leaving: asked on all ranks after every step but the last; True there saves and leaves.

        Raises:
            NonFiniteLoss: see `pipeline.training.loop.train_epoch`.
            LeftEarly: because of ``leaving``.
        """
        plan = self.images.loader.plan
        steps = min(plan.steps, self.config.max_steps or plan.steps)
        start = self.position.at if self.position else Pause()
        begun_at = self.images_seen - start.images
        batches = self._enter(epoch)

        def on_stats(stats: StepStats) -> None:
            self.images_seen = begun_at + stats.images
            rate = self.optimizer.param_groups[0]["lr"]
            self.teller.step(
                stats, epoch=epoch, steps=steps, rate=rate, images_seen=self.images_seen
            )

        def pause(at: Pause) -> None:
            self.images_seen = begun_at + at.images
            if at.step < steps:
                self.position = RankState.now(
                    at=at,
                    reader=batches.position(),
                    method=self.method,
                    candidates=self.collector,
                    device=self.device,
                )
                on_pause()

        traced = self.config.profile and self.rank == 0 and epoch == 1
        with profiled(self.teller.trace if traced else None) as tick:

            def on_step(result: StepResult) -> None:
                self.collector.add(result)
                tick()

            train_epoch(
                step=self.step,
                batches=batches,
                every=max(1, min(50, steps // 10)),
                on_stats=on_stats,
                on_step=on_step,
                at=start,
                pause_every=self.config.checkpoint_every,
                on_pause=pause,
                leaving=lambda done: done < steps and leaving(),
                max_steps=self.config.max_steps,
                begun=(epoch - 1) / self.config.epochs,
                per_step=1 / (steps * self.config.epochs),
            )
        self.position = None
        self._write_candidates(epoch)
        self.method.end_epoch()
        passes = self.method.passes_wanted()
        for _ in range(passes):
            self._pass_over_training_images(dropout=passes > 1)
        self.epoch = epoch

    def _enter(self, epoch: int) -> LabelledEpoch:
        if self.position is None:
            # Reseeding makes whatever is random in the model a function of (seed, epoch, rank),
            # so that a resumed epoch draws what the uninterrupted one drew.
            cam_net.seed_everything(self.config.seed + 1000 * epoch + self.rank)
            self.method.begin_epoch(epoch)
            self.collector.begin()
            self.step.enter(self.method.phase())
            return self.images.epoch(epoch)
        self.step.enter(self.method.phase(), resumed=True)
        self.position.restore(self.method, self.collector, self.device)
        return self.images.epoch(epoch, done=self.position.at.step, position=self.position.reader)

    def _write_candidates(self, epoch: int) -> None:
        """Leave the epoch's candidates in the run's directory and in MLflow."""
        if not self.config.candidates_per_epoch:
            return
        found = self.collector.finish(
            epoch=epoch,
            method=self.config.method,
            labels=self.dataset.label_version(self.config.labels)[0],
            images_seen=self.images_seen,
            overlay=getattr(self.method, "overlay", None),
        )
        if self.rank == 0:
            candidates.publish(found, self.dataset.classes, self.config, self.tracker.artifact)

    @torch.no_grad()
    def _pass_over_training_images(self, *, dropout: bool) -> None:
        """Show the method what the network now says of every training image, each once."""
        model = self.trained.runnable(self.model).eval()
        model.dropout.train(dropout)
        for number, batch in enumerate(self.images.in_order().epoch(0), start=1):
            if len(batch):
                logits_BK = model(batch.images_BHWC).float()
                self.method.observe(logits_BK, batch.dense(), batch.sample_ids)
            self.teller.progress("relabel", number, self.images.loader.plan.steps)
        self.method.end_pass()

    def validate(self, leaving: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Metrics of this epoch, equal on every rank.

        Raises:
            LeftEarly: because of ``leaving``, which is asked on the way; see `Validator`.
        """
        network = self.trained.runnable(self.trained.scored)
        return self.validator(
            network, epoch=self.epoch, images_seen=self.images_seen, leaving=leaving
        )

    @property
    def has_part_of_checkpoint(self) -> bool:
        """Whether `save` writes anything: everybody within an epoch, the first rank always."""
        return self.rank == 0 or self.position is not None

    def save(self, directory: str | None, metrics: dict[str, float]) -> None:
        """Write this worker's part of a checkpoint: of the epoch, or within it.

        Every worker calls it, with a directory where it has a part: all give their shards.
        """
        if self.position is not None and directory is not None:
            checkpoint.save_rank(directory, self.rank, self.position.state_dict())
        scored, training = self.trained.gathered(self.step, keep=self.rank == 0)
        if self.rank or directory is None:
            return
        classes = self.dataset.classes
        meta = checkpoint.Meta(
            config=self.config.to_dict(),
            epoch=self.epoch,
            images_seen=self.images_seen,
            step=self.position.at.step if self.position else 0,
            epoch_images=self.position.at.images if self.position else 0,
            world_size=self.world_size,
            classes_sha256=classes.sha256,
            mids=list(classes.mids),
            names=list(classes.names),
            dataset=self.config.dataset,
            dataset_digest=self.dataset.digest,
            labels=self.dataset.label_version(self.config.labels)[0],
            shards_sha256=self.dataset.shards_digest("train"),
            mlflow_run_id=self.run_id,
            metrics=metrics,
        )
        training["method"] = self.method.state_dict()
        checkpoint.save(directory, scored=scored, training=training, meta=meta)
        if isinstance(self.method, LargeLossCorrectPermanent):
            corrections.write(directory, self.method.corrections(), classes)
