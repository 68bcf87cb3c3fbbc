"""Assemble one rank of a training, restore it from a checkpoint, validate and save it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from pipeline import methods
from pipeline.audit import corrections
from pipeline.audit.collector import Collector
from pipeline.cluster.checkpoints import SCORE, UNSCORED
from pipeline.config.train import TrainConfig
from pipeline.data import dali, profile
from pipeline.data.labels import LabelledSplit
from pipeline.data.unreadable import LeftOut
from pipeline.methods.large_loss import LargeLossCorrectPermanent
from pipeline.models import cam_net, checkpoint
from pipeline.models.cam_head import CamHead
from pipeline.tracking.run_log import TrainingLog
from pipeline.training.progress import MetricsLogger
from pipeline.training.state import Rank, RankState, TrainState
from pipeline.training.step import TrainStep
from pipeline.training.validation import Validator
from sharding.manifest import Dataset

_log = logging.getLogger(__name__)


class Worker:
    """Holds one rank's network, data and method; `pipeline.training.epoch.run_epoch` trains it.

    Attributes:
        epoch: epochs finished.
        images_seen: by all ranks since the run began.
        position: within the epoch after it; None between epochs.
        unscored: whether it continues from the end of an epoch whose validation is for it to make.
        fence: raises if what is saved must not count any more (`pipeline.cluster.lease`).
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        dataset: Dataset,
        rank: Rank,
        run_log: TrainingLog,
        run_id: str,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self.config, self.dataset, self.rank = config, dataset, rank
        self.run_log, self.run_id, self.fence = run_log, run_id, fence
        self.labels, _ = dataset.label_version(config.labels)
        self.epoch, self.images_seen, self.unscored = 0, 0, False
        self.position: RankState | None = None
        cam_net.seed_everything(config.seed)
        self.state = TrainState(config, len(dataset.classes), rank.device)
        self.logger = MetricsLogger(config, rank, run_log)
        left_out = LeftOut(run_log.artifact)
        self.images = _open_images(config, dataset, rank, left_out)
        self.method = methods.create_for(
            config, mids=dataset.classes.mids, num_images=len(self.images.join.table)
        )
        if isinstance(self.method, methods.WatchesHead):
            head = self.state.model.head
            assert isinstance(head, CamHead)  # `create_for` refuses others
            self.method.attach(head)
        self.collector = Collector(config.candidates_per_epoch, rank.device)
        self.validator = Validator(
            config=config, dataset=dataset, rank=rank, run_log=run_log, left_out=left_out
        )

    def begin(self, model: torch.nn.Module, latest: str | None) -> None:
        """Train ``model`` (this worker's network, wrapped for DDP), from a checkpoint if any.

        The checkpoint may have been written by any number of workers, under DDP or FSDP. Within an
        epoch, other workers, other training images or another kind of device begin it again.

        Raises:
            InputError: the checkpoint is damaged, or of other classes or labels.
        """
        self.step = TrainStep(
            model=model,
            method=self.method,
            optimizer=self.state.optimizer,
            config=self.config.optimizer,
            averaged=self.state.averaged,
        )
        if latest is None:
            return
        meta = checkpoint.read_meta(latest)
        meta.check_classes(self.dataset.classes, latest)
        meta.check_labels(self.labels, latest)
        state = checkpoint.load_training(latest)
        self.state.load(state)
        if meta.step:  # before its state: an epoch may begin with a change of it
            self.method.begin_epoch(meta.epoch + 1)
        self.method.load_state_dict(state["method"])
        self.step.load_state_dict(state["step"])
        self.epoch, self.images_seen = meta.epoch, meta.images_seen
        # What a task of its own was to validate Ray remembers, and repeats.
        is_rays = self.config.async_validation and meta.config.get("async_validation", False)
        was_scored = meta.metrics.get(SCORE) != UNSCORED
        self.unscored = not (meta.step or was_scored or is_rays)
        change = meta.change(
            self.rank.world_size,
            self.dataset.shards_digest("train"),
            dali.version_on(self.rank.device.type),
        )
        if change and self.rank.is_first:
            _log.warning("%s", change)
        if meta.step and change:
            self.images_seen -= meta.epoch_images
        elif meta.step:
            rank_state = checkpoint.load_rank(latest, self.rank.number)
            self.position = RankState.from_state_dict(rank_state)

    def validate(self, should_stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Compute the metrics of this epoch, equal on every rank.

        Raises:
            StopRequested: because of ``should_stop``, asked on the way; see `Validator`.
        """
        network = self.state.runnable(self.state.scored)
        return self.validator(network, self.epoch, self.images_seen, should_stop)

    @property
    def saves_part(self) -> bool:
        """Whether `save` writes anything: every rank within an epoch, the first one always."""
        return self.rank.is_first or self.position is not None

    def save(self, directory: str | None, metrics: dict[str, float]) -> None:
        """Write this rank's part of a checkpoint, between epochs or within one.

        Every rank calls it, because all give their shards; with a directory if it `saves_part`.
        """
        if self.position is not None and directory is not None:
            checkpoint.save_rank(directory, self.rank.number, self.position.state_dict())
        scored, training = self.state.gather(self.step, keep=self.rank.is_first)
        if not self.rank.is_first or directory is None:
            return
        training["method"] = self.method.state_dict()
        checkpoint.save(directory, scored=scored, training=training, meta=self._meta(metrics))
        if isinstance(self.method, LargeLossCorrectPermanent):
            corrections.write(directory, self.method.corrections(), self.dataset.classes)

    def _meta(self, metrics: dict[str, float]) -> checkpoint.Meta:
        position = self.position.position if self.position else None
        return checkpoint.Meta.of(
            self.config,
            self.dataset,
            epoch=self.epoch,
            images_seen=self.images_seen,
            step=position.step if position else 0,
            epoch_images=position.images if position else 0,
            world_size=self.rank.world_size,
            shards_sha256=self.dataset.shards_digest("train"),
            reader=dali.version_on(self.rank.device.type),
            mlflow_run_id=self.run_id,
            metrics=metrics,
            data=profile.facts(self.dataset, self.labels),
        )


def _open_images(
    config: TrainConfig, dataset: Dataset, rank: Rank, left_out: LeftOut
) -> LabelledSplit:
    """Open this rank's share of the training split."""
    return LabelledSplit.open(
        dataset,
        "train",
        config.labels,
        rank.device,
        confidences=config.confidences,
        train=True,
        batch_size=config.data.batch_size // rank.world_size,
        image_size=config.data.image_size,
        augmentation=config.data.augmentation,
        shuffle_buffer=config.data.shuffle_buffer,
        seed=config.seed,
        rank=rank.number,
        world_size=rank.world_size,
        threads=rank.threads,
        hardware_share=config.data.hardware_share,
        left_out=left_out,
    )
