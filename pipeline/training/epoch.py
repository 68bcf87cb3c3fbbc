"""Train one epoch on one rank: enter it, save it at pauses, finish it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.audit import candidates
from pipeline.config.train import TrainConfig
from pipeline.data.labels import LabelledEpoch
from pipeline.methods.protocol import StepResult
from pipeline.models import cam_net
from pipeline.training.loop import EpochHooks, EpochPosition, StepPlan, StepStats, train_epoch
from pipeline.training.state import RankState
from pipeline.training.timing import profiled
from pipeline.training.worker import Worker


def run_epoch(
    worker: Worker,
    epoch: int,
    save: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train one epoch, or the rest of it.

    Args:
        worker: at the epoch's start, or within it (`Worker.position`).
        epoch: counted from 1.
        save: called at every pause; the worker can be saved there.
        should_stop: asked on all ranks after every step but the last; True there pauses and stops.

    Raises:
        NonFiniteLoss: see `pipeline.training.loop.train_epoch`.
        StopRequested: because of ``should_stop``.
    """
    plan = step_plan(worker.config, epoch, worker.images.loader.plan.steps)
    position = worker.position.position if worker.position else None
    images_before = worker.images_seen - (position.images if position else 0)
    running = _RunningEpoch(worker, epoch, plan, images_before)
    batches = enter(worker, epoch)
    traced = worker.config.profile and worker.rank.is_first and epoch == 1
    with profiled(worker.logger.trace if traced else None) as tick:
        hooks = EpochHooks(
            on_step=lambda result: running.on_step(result, tick),
            on_stats=running.on_stats,
            on_pause=lambda position: running.on_pause(position, batches, save),
            should_stop=lambda done: running.after_step(done) and should_stop(),
        )
        train_epoch(worker.step, batches, plan, hooks, position)
    worker.position = None
    _write_candidates(worker, epoch)
    worker.method.end_epoch()
    passes = worker.method.passes_wanted()
    for _ in range(passes):
        _observe_training_images(worker, dropout=passes > 1)
    worker.epoch = epoch
    _return_freed_memory()


def _return_freed_memory() -> None:
    """Return to the system what an epoch has freed, of which glibc keeps more with every epoch."""
    with contextlib.suppress(OSError, AttributeError):  # where there is no glibc
        ctypes.CDLL(None).malloc_trim(0)


def step_plan(config: TrainConfig, epoch: int, batches: int) -> StepPlan:
    """Plan an epoch of a training whose epochs have so many batches."""
    steps = min(batches, config.max_steps or batches)
    return StepPlan(
        steps=steps,
        stats_every=max(1, min(50, steps // 10)),
        pause_every=config.checkpoint_every,
        progress_before=(epoch - 1) / config.epochs,
        progress_per_step=1 / (steps * config.epochs),
    )


def enter(worker: Worker, epoch: int) -> LabelledEpoch:
    """Bring method, optimizer, random state and reader to the epoch's start or `RankState`."""
    if worker.position is None:
        # Reseeding makes whatever is random in the model a function of (seed, epoch, rank),
        # so that a resumed epoch draws what the uninterrupted one drew.
        cam_net.seed_everything(worker.config.seed + 1000 * epoch + worker.rank.number)
        worker.method.begin_epoch(epoch)
        worker.collector.begin()
        worker.step.enter(worker.method.phase())
        return worker.images.epoch(epoch)
    worker.step.enter(worker.method.phase(), resumed=True)
    worker.position.restore(worker.method, worker.collector, worker.rank.device)
    done = worker.position.position.step
    return worker.images.epoch(epoch, done=done, position=worker.position.reader)


@dataclass(frozen=True)
class _RunningEpoch:
    """What happens between the steps of an epoch."""

    worker: Worker
    epoch: int
    plan: StepPlan
    images_before: int

    def on_step(self, result: StepResult, profiler_tick: Callable[[], None]) -> None:
        self.worker.collector.add(result)
        profiler_tick()

    def after_step(self, done: int) -> bool:
        """Start the next epoch's reader in the last tenth; return whether a step is left."""
        steps, epochs = self.plan.steps, self.worker.config.epochs
        # At the end once more: a damaged image may have cost the first one.
        if done in (steps - steps // 10, steps) and self.epoch < epochs:
            self.worker.images.build_ahead(self.epoch + 1)
        return done < steps

    def on_stats(self, stats: StepStats) -> None:
        worker = self.worker
        worker.images_seen = self.images_before + stats.images
        rate = worker.state.optimizer.param_groups[0]["lr"]
        worker.logger.step(
            stats,
            epoch=self.epoch,
            steps=self.plan.steps,
            rate=rate,
            images_seen=worker.images_seen,
        )

    def on_pause(
        self, position: EpochPosition, batches: LabelledEpoch, save: Callable[[], None]
    ) -> None:
        worker = self.worker
        worker.images_seen = self.images_before + position.images
        if position.step < self.plan.steps:
            worker.position = RankState.capture(
                position, batches.position(), worker.method, worker.collector, worker.rank.device
            )
            save()


def _write_candidates(worker: Worker, epoch: int) -> None:
    """Write the epoch's label candidates into the run's directory and to MLflow."""
    if not worker.config.candidates_per_epoch:
        return
    collected = worker.collector.finish(
        epoch=epoch,
        method=worker.config.method,
        labels=worker.labels,
        images_seen=worker.images_seen,
        overlay=getattr(worker.method, "overlay", None),
    )
    if worker.rank.is_first:
        if (table := worker.images.join.confidences) is not None:
            collected = collected.with_confidences(table)
        candidates.publish(collected, worker.dataset.classes, worker.config, worker.run_log)


@torch.no_grad()
def _observe_training_images(worker: Worker, *, dropout: bool) -> None:
    """Show the method the network's current prediction for every training image, each once."""
    model = worker.state.runnable(worker.state.model).eval()
    model.dropout.train(dropout)
    steps = worker.images.loader.plan.steps
    for number, batch in enumerate(worker.images.in_order().epoch(0), start=1):
        if len(batch):
            logits_BK = model(batch.images_BHWC).float()
            worker.method.observe(logits_BK, batch.dense(), batch.sample_ids)
        worker.logger.progress("relabel", number, steps)
    worker.method.end_pass()
