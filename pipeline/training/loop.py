"""Run one epoch of training on one rank, free of Ray and MLflow."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.data.labels import LabelledBatch
from pipeline.methods.protocol import StepResult
from pipeline.ranks import has_group
from pipeline.training import distributed
from pipeline.training.step import TrainStep
from pipeline.training.timing import RankTimer


class NonFiniteLoss(RuntimeError):
    """A loss, or a weight after the last update, is NaN or infinite; raised on all ranks."""


class StopRequested(RuntimeError):
    """Training is asked to stop; raised on every rank after the same step."""


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """How many steps an epoch takes, and what happens between them.

    Attributes:
        stats_every: steps between statistics.
        steps: of the epoch, which also ends with its batches.
        pause_every: steps between pauses; None for none.
        progress_before: share of the whole training done before the epoch, for the schedule.
        progress_per_step: what each step adds to it.
    """

    stats_every: int
    steps: int = sys.maxsize
    pause_every: int | None = None
    progress_before: float = 0.0
    progress_per_step: float = 0.0

    def progress(self, done: int) -> float:
        """Compute the share of the whole training done after ``done`` steps of the epoch."""
        return self.progress_before + done * self.progress_per_step


@dataclass(frozen=True, kw_only=True)
class EpochPosition:
    """A place between two steps, where an epoch can be saved and continued.

    Attributes:
        step: steps done in this epoch.
        images: images consumed in this epoch over all ranks.
        meter: this rank's sums since the last statistics; None at the epoch's start.
    """

    step: int = 0
    images: int = 0
    meter: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """Averages since the last statistics, over all ranks.

    Attributes:
        step: steps done in this epoch.
        images: images consumed in this epoch over all ranks.
        loss: mean of the global batches' losses.
        modified_fraction: share of label entries the method rejected or corrected.
        images_per_second: over all ranks.
        wait_fraction: share of the ranks' time spent waiting for the loader.
        worst_wait_fraction: the same of the rank that waited longest, and all others for it.
        slowest_rank: the rank whose forward passes took longest.
        skew: time of its forward passes over the mean of all ranks; 1 if all are equally fast.
    """

    step: int
    images: int
    loss: float
    modified_fraction: float
    images_per_second: float
    wait_fraction: float
    worst_wait_fraction: float
    slowest_rank: int
    skew: float


@dataclass(frozen=True, kw_only=True)
class EpochHooks:
    """What `train_epoch` calls between two steps, on every rank.

    Attributes:
        on_step: receives this rank's result of every step.
        on_stats: receives averages over all ranks, every `StepPlan.stats_every` steps and after the
            last.
        on_pause: receives where the epoch is at a pause, with weights that are finite.
        should_stop: called after every step, with the steps done; True on all ranks pauses and
            stops the epoch. That of `run_epoch` asks for a stop after every step but the last.
    """

    on_step: Callable[[StepResult], None] = lambda result: None
    on_stats: Callable[[StepStats], None] = lambda stats: None
    on_pause: Callable[[EpochPosition], None] = lambda position: None
    should_stop: Callable[[int], bool] = lambda done: False


def train_epoch(
    step: TrainStep,
    batches: Iterable[LabelledBatch],
    plan: StepPlan,
    hooks: EpochHooks,
    position: EpochPosition | None = None,
) -> None:
    """Run one epoch, or the rest of it.

    Args:
        step: makes updates of batches.
        batches: this rank's share of the epoch, or the rest of it.
        plan: steps, statistics and pauses; a pause does not shift the statistics.
        hooks: called between the steps.
        position: where an interrupted epoch is continued; None for the start.

    Raises:
        NonFiniteLoss: on all ranks together, so that none waits for another. What is saved when
            the epoch ends, or at a pause, has finite losses behind it and finite weights.
        StopRequested: because of ``hooks.should_stop``, after ``hooks.on_pause``.
    """
    step.model.train()
    position = position or EpochPosition()
    meter = _Meter(step.device, step.timer, position)
    done, iterator = position.step, iter(batches)
    while done < plan.steps:
        waited = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            break
        meter.waited += time.perf_counter() - waited
        result = step(batch, plan.progress(done))
        hooks.on_step(result)
        meter.add(result)
        done += 1
        stopping = hooks.should_stop(done)
        if done % plan.stats_every == 0:
            hooks.on_stats(meter.read(done))
        if stopping or (plan.pause_every is not None and done % plan.pause_every == 0):
            position = meter.position(done)
            _check_weights(step, done)
            hooks.on_pause(position)
            meter.restore(position)  # a pause is not the loop's time
        if stopping:
            raise StopRequested(f"stopped after step {done}")
    if meter.steps:
        hooks.on_stats(meter.read(done))
    _check_weights(step, done)


def _check_weights(step: TrainStep, done: int) -> None:
    """Raise NonFiniteLoss if the last update, of which no loss was computed yet, broke a weight."""
    tensors = (
        distributed.local(t) for t in step.model.state_dict().values() if t.is_floating_point()
    )
    largest = nn.utils.get_total_norm([t for t in tensors if t.numel()], math.inf)
    finite = largest.isfinite().long().to(step.device)
    if has_group():
        torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
    if not finite:
        raise NonFiniteLoss(f"a weight is not finite after step {done}")


class _Meter:
    """Sums losses and counts on the device; collectives when read, none per step."""

    _losses: list[torch.Tensor]

    def __init__(self, device: torch.device, timer: RankTimer, position: EpochPosition) -> None:
        self._device, self._timer = device, timer
        self._images = position.images  # over all ranks, up to the last statistics
        self._reset()
        self.restore(position)

    @property
    def steps(self) -> int:
        """Steps since the last statistics."""
        return len(self._losses)

    def add(self, result: StepResult) -> None:
        self._losses.append(result.loss.double())
        self._modified += result.modified_BK.sum()
        self._counts += torch.tensor([result.modified_BK.numel(), len(result.batch)])

    def read(self, step: int) -> StepStats:
        """Average over all ranks and begin again; raises NonFiniteLoss."""
        losses, modified, entries, images = self._totals(step)
        self._computed += self._timer.read()
        waited_R, computed_R = _of_all_ranks([self.waited, self._computed], self._device)
        ranks = len(waited_R)
        elapsed = time.perf_counter() - self._started
        self._images += int(images)
        stats = StepStats(
            step=step,
            images=self._images,
            # Each rank's loss is scaled so that the mean over ranks is the global batch's loss.
            loss=sum(losses) / ranks / self.steps,
            modified_fraction=modified / max(entries, 1),
            images_per_second=images / elapsed,
            wait_fraction=float(waited_R.mean()) / elapsed,
            worst_wait_fraction=float(waited_R.max()) / elapsed,
            slowest_rank=int(computed_R.argmax()),
            skew=float(computed_R.max() / computed_R.mean()),
        )
        self._reset()
        return stats

    def position(self, step: int) -> EpochPosition:
        """Copy the sums for a checkpoint; raises NonFiniteLoss before the weights are saved."""
        _, _, _, images = self._totals(step)
        self._computed += self._timer.read()
        meter = {
            "images": self._images,
            "waited": self.waited,
            "computed": self._computed,
            "seconds": time.perf_counter() - self._started,
            "losses": self._stacked().cpu(),
            "modified": self._modified.cpu(),
            "counts": self._counts,
        }
        return EpochPosition(step=step, images=self._images + int(images), meter=meter)

    def restore(self, position: EpochPosition) -> None:
        """Continue with the sums of `position`."""
        if position.meter is None:
            return
        meter = position.meter
        self._images, self.waited, self._computed = (
            meter[key] for key in ("images", "waited", "computed")
        )
        self._started = time.perf_counter() - meter["seconds"]
        self._losses = [*meter["losses"].to(self._device)]
        self._modified = meter["modified"].to(self._device, copy=True)
        self._counts = meter["counts"].clone()

    def _totals(self, step: int) -> tuple[list[float], float, float, float]:
        """Sum over all ranks: each step's loss; entries modified, entries, images."""
        counts = torch.cat([self._modified, self._counts.to(self._device)]).double()
        sums = torch.cat([counts, self._stacked()])
        if has_group():
            torch.distributed.all_reduce(sums)
        modified, entries, images, *losses = sums.tolist()
        for number, loss in enumerate(losses, start=step - self.steps + 1):
            if not math.isfinite(loss):
                raise NonFiniteLoss(f"the loss is {loss} at step {number}")
        return losses, modified, entries, images

    def _stacked(self) -> torch.Tensor:
        empty = torch.zeros(0, dtype=torch.float64, device=self._device)
        return torch.stack(self._losses) if self._losses else empty

    def _reset(self) -> None:
        self.waited, self._computed, self._started = 0.0, 0.0, time.perf_counter()
        self._losses = []
        self._modified = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._counts = torch.zeros(2, dtype=torch.int64)  # known on the host: no device sync


def _of_all_ranks(values: list[float], device: torch.device) -> torch.Tensor:
    """Gather every rank's values on the host, one row for each value."""
    mine = torch.tensor(values, dtype=torch.float64, device=device)
    if not has_group():
        return mine.cpu()[:, None]
    parts = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, mine)
    return torch.stack(parts, dim=1).cpu()
