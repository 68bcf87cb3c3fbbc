"""One epoch of training on one rank: the loop itself, free of Ray and MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.data.labels import LabelledBatch
from pipeline.methods.protocol import StepResult
from pipeline.training import distributed
from pipeline.training.step import TrainStep
from pipeline.training.timing import RankTimer


class NonFiniteLoss(RuntimeError):
    """A loss, or a weight after the last update, is NaN or infinite; raised on all ranks."""


class LeftEarly(RuntimeError):
    """Notice was given; raised on every rank at the same step."""


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
        slowest_rank: whose forward passes took longest.
        skew: how long, over the mean of all ranks; 1 where all are equally fast.
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
    batches: Iterable[LabelledBatch],
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
        on_pause: called between two steps, with weights that are finite; statistics come when they
            would without it.
        leaving: asked after every step, with the steps done: True on all ranks pauses and leaves.
        max_steps: stop after so many.
        begun, per_step: progress of the whole training at the epoch's start, and what a step adds.

    Raises:
        NonFiniteLoss: on all ranks together, so that none waits for another. What is saved when
            the epoch ends, or in ``on_pause``, has finite losses behind it and finite weights.
        LeftEarly: because of ``leaving``, after ``on_pause``.
    """
    step.model.train()
    meter = _Meter(step.device, step.pace, at)
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
            _check_weights(step, done)
            on_pause(at)
            meter.go_on(at)  # a pause is not the loop's time
        if left:
            raise LeftEarly(f"left at step {done}")
    if meter.steps:
        on_stats(meter.read(done))
    _check_weights(step, done)


def _check_weights(step: TrainStep, done: int) -> None:
    """No loss has been computed with the last update's weights yet."""
    tensors = (
        distributed.local(t) for t in step.model.state_dict().values() if t.is_floating_point()
    )
    largest = nn.utils.get_total_norm([t for t in tensors if t.numel()], math.inf)
    finite = largest.isfinite().long().to(step.device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
    if not finite:
        raise NonFiniteLoss(f"a weight is not finite after step {done}")


class _Meter:
    """Losses and sums on the device; collectives when read, none per step."""

    _losses: list[torch.Tensor]

    def __init__(self, device: torch.device, pace: RankTimer, at: Pause) -> None:
        self._device, self._pace = device, pace
        self._images = at.images  # over all ranks, up to the last statistics
        self.reset()
        self.go_on(at)

    def add(self, result: StepResult) -> None:
        self._losses.append(result.loss.double())
        self._modified += result.modified_BK.sum()
        self._counts += torch.tensor([result.modified_BK.numel(), len(result.batch)])

    def read(self, step: int) -> StepStats:
        losses, modified, entries, images = self._totals(step)
        self._computed += self._pace.read()
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
        self.reset()
        return stats

    def pause(self, step: int) -> Pause:
        """Raises NonFiniteLoss: before anybody saves what it made of the weights."""
        _, _, _, images = self._totals(step)
        self._computed += self._pace.read()
        meter = {
            "images": self._images,
            "waited": self.waited,
            "computed": self._computed,
            "seconds": time.perf_counter() - self._started,
            "losses": self._stacked().cpu(),
            "modified": self._modified.cpu(),
            "counts": self._counts,
        }
        return Pause(step=step, images=self._images + int(images), meter=meter)

    def go_on(self, at: Pause) -> None:
        if at.meter is None:
            return
        self._images, self.waited = at.meter["images"], at.meter["waited"]
        self._computed = at.meter["computed"]
        self._started = time.perf_counter() - at.meter["seconds"]
        self._losses = [*at.meter["losses"].to(self._device)]
        self._modified = at.meter["modified"].to(self._device, copy=True)
        self._counts = at.meter["counts"].clone()

    @property
    def steps(self) -> int:
        return len(self._losses)

    def _stacked(self) -> torch.Tensor:
        empty = torch.zeros(0, dtype=torch.float64, device=self._device)
        return torch.stack(self._losses) if self._losses else empty

    def _totals(self, step: int) -> tuple[list[float], float, float, float]:
        """Over all ranks: each step's loss; entries modified, entries, images."""
        counts = torch.cat([self._modified, self._counts.to(self._device)]).double()
        sums = torch.cat([counts, self._stacked()])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        modified, entries, images, *losses = sums.tolist()
        for number, loss in enumerate(losses, start=step - self.steps + 1):
            if not math.isfinite(loss):
                raise NonFiniteLoss(f"the loss is {loss} at step {number}")
        return losses, modified, entries, images

    def reset(self) -> None:
        self.waited, self._computed, self._started = 0.0, 0.0, time.perf_counter()
        self._losses = []
        self._modified = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._counts = torch.zeros(2, dtype=torch.int64)  # known on the host: no device sync


def _of_all_ranks(values: list[float], device: torch.device) -> torch.Tensor:
    """Every rank's values, one row for each value, on the host."""
    own = torch.tensor(values, dtype=torch.float64, device=device)
    if not torch.distributed.is_initialized():
        return own.cpu()[:, None]
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own)
    return torch.stack(parts, dim=1).cpu()
