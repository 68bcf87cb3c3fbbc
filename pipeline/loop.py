"""One epoch of training on one rank: the loop itself, free of Ray and MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.loader import Batch
from pipeline.step import StepResult, TrainStep


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; raised on every rank at the same step."""


class LeftEarly(RuntimeError):
    """Notice was given; raised on every rank at the same step, which has been saved."""


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
    """

    step: int
    images: int
    loss: float
    modified_fraction: float
    images_per_second: float
    wait_fraction: float
    worst_wait_fraction: float


@dataclass(frozen=True, kw_only=True)
class Pause:
    """A place between two steps, where an epoch can be saved and goes on.

    Attributes:
        step: steps done in this epoch.
        images: images consumed in this epoch over all ranks.
        meter: this rank's sums since the last statistics, if there are any.
    """

    step: int = 0
    images: int = 0
    meter: Mapping[str, Any] | None = None


_START = Pause()


def train_epoch(
    *,
    step: TrainStep,
    batches: Iterable[Batch],
    every: int,
    on_stats: Callable[[StepStats], None],
    on_step: Callable[[StepResult], None] = lambda result: None,
    at: Pause = _START,
    pause_every: int | None = None,
    on_pause: Callable[[Pause], None] = lambda at: None,
    leaving: Callable[[int], bool] = lambda done: False,
    max_steps: int | None = None,
    begun: float = 0.0,
    per_step: float = 0.0,
) -> None:
    """Run one epoch; call ``on_stats`` every ``every`` steps and after the last.

    Args:
        step: makes updates of batches.
        batches: this rank's share of the epoch, or what is left of it.
        every: steps between statistics.
        on_stats: receives averages over all ranks.
        on_step: receives every step's result on this rank.
        at: where an interrupted epoch goes on.
        pause_every: steps between calls of ``on_pause``.
        on_pause: called between two steps; statistics come when they would without it.
        leaving: asked after every step, with the steps done: True on all ranks pauses and leaves.
        max_steps: stop after so many.
        begun, per_step: progress of the whole training at the epoch's start, and what a step adds.

    Raises:
        NonFiniteLoss: on all ranks together, so that none waits for another.
        LeftEarly: because of ``leaving``.
    """
    step.model.train()
    meter = _Meter(step.join.device, at)
    done = at.step
    iterator = iter(batches)
    while max_steps is None or done < max_steps:
        waited = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            break
        meter.waited += time.perf_counter() - waited
        result = step(batch, begun + done * per_step)
        on_step(result)
        meter.add(result)
        done += 1
        left = leaving(done)
        if done % every == 0:
            on_stats(meter.read(done))
        if left or (pause_every is not None and done % pause_every == 0):
            at = meter.pause(done)
            on_pause(at)
            meter.go_on(at)  # a pause is not the loop's time
        if left:
            raise LeftEarly(f"left at step {done}")
    if meter.steps:
        on_stats(meter.read(done))


class _Meter:
    """Sums on the device; one all-reduce when read, none per step."""

    def __init__(self, device: torch.device, at: Pause) -> None:
        self._device = device
        self._images = at.images  # over all ranks, up to the last statistics
        self.reset()
        self.go_on(at)

    def add(self, result: StepResult) -> None:
        self.steps += 1
        self._sums += torch.stack([result.loss.double(), result.modified_BK.sum().double()])
        self._counts += torch.tensor([result.modified_BK.numel(), len(result.batch)])

    def read(self, step: int) -> StepStats:
        loss, modified, entries, images, all_waited = self._totals(step)
        waited, ranks = self._sums.new_tensor([self.waited]), 1
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(waited, torch.distributed.ReduceOp.MAX)
            ranks = torch.distributed.get_world_size()
        elapsed = time.perf_counter() - self._started
        self._images += int(images)
        stats = StepStats(
            step=step,
            images=self._images,
            # Each rank's loss is scaled so that the mean over ranks is the global batch's loss.
            loss=loss / ranks / self.steps,
            modified_fraction=modified / max(entries, 1),
            images_per_second=images / elapsed,
            wait_fraction=all_waited / ranks / elapsed,
            worst_wait_fraction=float(waited) / elapsed,
        )
        self.reset()
        return stats

    def pause(self, step: int) -> Pause:
        """Raises NonFiniteLoss: before anybody saves what it made of the weights."""
        *_, images, _ = self._totals(step)
        meter = {
            "images": self._images,
            "steps": self.steps,
            "waited": self.waited,
            "seconds": time.perf_counter() - self._started,
            "sums": self._sums.cpu(),
            "counts": self._counts,
        }
        return Pause(step=step, images=self._images + int(images), meter=meter)

    def go_on(self, at: Pause) -> None:
        if at.meter is None:
            return
        self._images, self.steps = at.meter["images"], at.meter["steps"]
        self.waited, self._started = at.meter["waited"], time.perf_counter() - at.meter["seconds"]
        self._sums = at.meter["sums"].to(self._device, copy=True)
        self._counts = at.meter["counts"].clone()

    def _totals(self, step: int) -> list[float]:
        """Over all ranks: loss, entries modified, entries, images, seconds waited."""
        waited = self._sums.new_tensor([self.waited])
        sums = torch.cat([self._sums, self._counts.to(self._sums), waited])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        totals = sums.tolist()
        if not math.isfinite(totals[0]):
            raise NonFiniteLoss(
                f"the loss is {totals[0]} within the {self.steps} steps up to {step}"
            )
        return totals

    def reset(self) -> None:
        self.steps, self.waited, self._started = 0, 0.0, time.perf_counter()
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        self._counts = torch.zeros(2, dtype=torch.int64)  # known on the host: no device sync
