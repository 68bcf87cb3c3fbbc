"""What one rank holds and does between two reports: train an epoch, validate, save, restore."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, cast

import torch

from pipeline import checkpoint, cluster, evaluate, methods, publish
from pipeline import model as models
from pipeline.config import TrainConfig, parse_options
from pipeline.explain import explain
from pipeline.loader import LabelJoin, Loader
from pipeline.loop import NonFiniteLoss, StepStats, train_epoch
from pipeline.step import TrainStep
from sharding.manifest import Dataset

SCORE = "score"
VALIDATION = "validation"
TEST = "test"


class Worker:
    """One rank's model, data and position; `train`, `validate`, `save`, `restore`."""

    def __init__(
        self,
        *,
        config: TrainConfig,
        dataset: Dataset,
        rank: int,
        world_size: int,
        device: torch.device,
        threads: int,
        tracker: Any,
        run_id: str,
    ) -> None:
        self.config, self.dataset = config, dataset
        self.rank, self.world_size, self.device = rank, world_size, device
        self.tracker, self.run_id = tracker, run_id
        self.epoch, self.images_seen = 0, 0
        K = len(dataset.classes)
        models.seed_everything(config.seed)
        self.model = models.build(config.model, K).to(device)
        groups = models.parameter_groups(
            self.model, config.optimizer.learning_rate, config.optimizer.head_multiplier
        )
        self.optimizer = torch.optim.Adam(
            groups, weight_decay=config.optimizer.weight_decay, fused=device.type == "cuda"
        )
        self.method = methods.create(config.method, K, **parse_options(config.method_options))
        if isinstance(self.method, methods.WatchesHead):
            self.method.attach(self.model.head)
        options = {
            "batch_size": config.data.batch_size // world_size,
            "image_size": config.data.image_size,
            "rank": rank,
            "world_size": world_size,
            "device_id": device.index if device.type == "cuda" else None,
            "threads": threads,
        }
        self.loader = Loader.of_split(
            dataset,
            "train",
            train=True,
            augmentation=config.data.augmentation,
            shuffle_buffer=config.data.shuffle_buffer,
            seed=config.seed,
            **options,
        )
        self.join = LabelJoin(
            table=dataset.labels("train", config.labels), num_classes=K, device=device
        )
        self.validation = _validation(dataset, config, options, device)

    @property
    def scored(self) -> models.CamNet:
        """The network that is validated and kept: the moving average where there is one."""
        averaged = self.step.averaged
        return self.model if averaged is None else cast(models.CamNet, averaged)

    def begin(self, model: torch.nn.Module, latest: str | None) -> None:
        """Train ``model`` (this worker's network, wrapped for DDP), from a checkpoint if any.

        The checkpoint may have been written by any number of workers.
        """
        self.step = TrainStep(
            model=model,
            method=self.method,
            optimizer=self.optimizer,
            join=self.join,
            config=self.config.optimizer,
        )
        if latest is None:
            return
        meta = checkpoint.read_meta(latest)
        meta.check_classes(self.dataset.classes, latest)
        state = checkpoint.load_training(latest)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self.step.load_state_dict(state["step"])
        self.epoch, self.images_seen = meta.epoch, meta.images_seen

    def train(self, epoch: int) -> None:
        """One epoch; a loss that is not finite is told to the driver and raised."""
        plan = self.loader.plan
        steps = min(plan.steps, self.config.max_steps or plan.steps)
        # Reseeding makes whatever is random in the model a function of (seed, epoch, rank),
        # so that a resumed epoch draws what the uninterrupted one drew.
        models.seed_everything(self.config.seed + 1000 * epoch + self.rank)
        self.method.begin_epoch(epoch)
        begun_at = self.images_seen

        def on_stats(stats: StepStats) -> None:
            self.images_seen = begun_at + stats.images
            if self.rank == 0:
                self._log_step(stats, epoch, steps)

        try:
            train_epoch(
                step=self.step,
                batches=self.loader.epoch(epoch),
                every=max(1, min(50, steps // 10)),
                on_stats=on_stats,
                max_steps=self.config.max_steps,
                begun=(epoch - 1) / self.config.epochs,
                per_step=1 / (steps * self.config.epochs),
            )
        except NonFiniteLoss as error:
            if self.rank == 0:
                cluster.wait_for(self.tracker.fail(f"epoch {epoch}: {error}"))
            raise
        self.method.end_epoch()
        for _ in range(self.method.passes_wanted()):
            self._pass_over_training_images()
        self.epoch = epoch

    @torch.no_grad()
    def _pass_over_training_images(self) -> None:
        """Show the method what the network now says of every training image, each once."""
        self.model.eval()
        loader = dataclasses.replace(self.loader, train=False)
        for number, batch in enumerate(loader.epoch(0), start=1):
            if len(batch):
                ids_B = torch.from_numpy(batch.image_ids_B.view("int64"))
                logits_BK = self.model(batch.images_BHWC).float()
                self.method.observe(logits_BK, self.join.dense(batch.image_ids_B), ids_B)
            self._show("relabel", number, loader.plan.steps)
        self.method.end_pass()

    def validate(self) -> dict[str, float]:
        """Metrics of this epoch, equal on every rank; the score alone without a split for it."""
        if self.validation is None:
            return {"epoch": float(self.epoch), SCORE: float(self.epoch)}
        loader, join = self.validation
        label, steps = f"validate {self.epoch}/{self.config.epochs}", loader.plan.steps
        done = itertools.count(1)
        scores = evaluate.gather(
            evaluate.score(
                self.scored, loader, join, lambda _: self._show(label, next(done), steps)
            )
        )
        K = len(self.dataset.classes)
        ap_by_name = evaluate.per_class(scores, K)
        found = evaluate.summaries(scores, ap_by_name, self.dataset.classes)
        metrics = publish.metrics_of(found, "val")
        if self.rank == 0:
            self._publish(scores, ap_by_name, found)
        best = metrics["val/mAP/all"]
        return metrics | {"epoch": float(self.epoch), SCORE: -1.0 if math.isnan(best) else best}

    def save(self, directory: str, metrics: dict[str, float]) -> None:
        """Write this epoch's checkpoint."""
        classes = self.dataset.classes
        meta = checkpoint.Meta(
            config=self.config.to_dict(),
            epoch=self.epoch,
            images_seen=self.images_seen,
            world_size=self.world_size,
            classes_sha256=classes.sha256,
            mids=list(classes.mids),
            names=list(classes.names),
            dataset=str(self.dataset.directory),
            dataset_digest=self.dataset.digest,
            labels=self.dataset.label_version(self.config.labels)[0],
            mlflow_run_id=self.run_id,
            metrics=metrics,
        )
        checkpoint.save(
            directory,
            scored=self.scored,
            training={
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "method": self.method.state_dict(),
                "step": self.step.state_dict(),
            },
            meta=meta,
        )

    def _publish(
        self, scores: evaluate.Scores, ap_by_name: dict[str, Any], found: dict[str, Any]
    ) -> None:
        classes, step = self.dataset.classes, self.images_seen
        publish.evaluation(
            self.tracker,
            classes=classes,
            scores=scores,
            ap_by_name=ap_by_name,
            summaries=found,
            prefix="val",
            step=step,
            folder=f"eval/epoch_{self.epoch:03d}",
        )
        loader, join = self._pictured()
        explained = explain(self.scored, loader, join)
        publish.maps(self.tracker, explained, classes, self.scored.head.alpha_infer, step)

    def _pictured(self) -> tuple[Loader, LabelJoin]:
        """A few test images (validation images where there is no test split), same every epoch."""
        _, version = self.dataset.label_version(self.config.labels)
        split = TEST if TEST in version.splits else VALIDATION
        table = self.dataset.labels(split, self.config.labels)
        loader = Loader.of_split(
            self.dataset,
            split,
            batch_size=8,
            image_size=self.config.data.image_size,
            device_id=self.loader.device_id,
        )
        return loader, dataclasses.replace(self.join, table=table)

    def _log_step(self, stats: StepStats, epoch: int, steps: int) -> None:
        values = {
            "train/loss": stats.loss,
            "train/modified_fraction": stats.modified_fraction,
            "train/images_per_second": stats.images_per_second,
            "train/lr": self.optimizer.param_groups[0]["lr"],
            "data/wait_fraction": stats.wait_fraction,
        }
        self.tracker.log([(key, value, self.images_seen) for key, value in values.items()])
        self._show(
            f"epoch {epoch}/{self.config.epochs}", stats.step, steps, f"loss {stats.loss:.4f}"
        )

    def _show(self, label: str, step: int, steps: int, note: str = "") -> None:
        if self.rank == 0:
            self.tracker.progress(label=label, step=step, steps=steps, note=note)


def _validation(
    dataset: Dataset, config: TrainConfig, options: dict[str, Any], device: torch.device
) -> tuple[Loader, LabelJoin] | None:
    _, version = dataset.label_version(config.labels)
    if VALIDATION not in version.splits:
        return None
    table = dataset.labels(VALIDATION, config.labels)
    loader = Loader.of_split(dataset, VALIDATION, **options)
    return loader, LabelJoin(table=table, num_classes=len(dataset.classes), device=device)
