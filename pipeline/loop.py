"""One epoch of training on one rank: the loop itself, free of Ray and MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.loader import Batch, LabelJoin
from pipeline.methods import Method


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite; raised on every rank at the same step."""


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """Averages since the last statistics, over all ranks.

    Attributes:
        step: steps done in this epoch.
        images: images consumed in this epoch over all ranks.
        loss: mean of the global batches' losses.
        modified_fraction: share of label entries the method rejected or corrected.
        images_per_second: over all ranks.
        wait_fraction: share of this rank's time spent waiting for the loader.
    """

    step: int
    images: int
    loss: float
    modified_fraction: float
    images_per_second: float
    wait_fraction: float


def train_epoch(
    *,
    model: nn.Module,
    method: Method,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    join: LabelJoin,
    every: int,
    on_stats: Callable[[StepStats], None],
    max_steps: int | None = None,
) -> None:
    """Run one epoch; call ``on_stats`` every ``every`` steps and after the last.

    ``model`` maps uint8 images (B, H, W, 3) to logits (B, K) and is in training mode on return.

    Raises:
        NonFiniteLoss: on all ranks together, so that none waits for another.
    """
    model.train()
    meter = _Meter(join.device)
    iterator = iter(batches)
    step = 0
    while max_steps is None or step < max_steps:
        waited = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            break
        meter.waited += time.perf_counter() - waited
        loss, modified_BK = train_step(model, method, optimizer, batch, join)
        meter.add(loss, modified_BK, len(batch))
        step += 1
        if step % every == 0:
            on_stats(meter.read(step))
    if meter.steps:
        on_stats(meter.read(step))


def train_step(
    model: nn.Module,
    method: Method,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    join: LabelJoin,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step; returns the loss (scalar) and the mask of modified entries (B, K)."""
    B = len(batch)
    # A rank whose share of the last batch is empty must still join the collectives: it runs one
    # black image whose logits are then dropped.
    images_BHWC = batch.images_BHWC if B else _black_like(batch.images_BHWC)
    logits_BK = model(images_BHWC)[:B]
    labels_BK = join.dense(batch.image_ids_B)
    ids_B = torch.from_numpy(batch.image_ids_B.view("int64"))
    loss, modified_BK = method.loss(logits_BK, labels_BK, ids_B)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), modified_BK


class _Meter:
    """Sums on the device; one all-reduce when read, none per step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._images = 0.0
        self._reset()

    def add(self, loss: torch.Tensor, modified_BK: torch.Tensor, images: int) -> None:
        self.steps += 1
        self._sums += torch.stack([loss.double(), modified_BK.sum().double()])
        self._counts += torch.tensor([modified_BK.numel(), images])

    def read(self, step: int) -> StepStats:
        sums = torch.cat([self._sums, self._counts.to(self._sums)])
        ranks = 1
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
            ranks = torch.distributed.get_world_size()
        loss_sum, modified, entries, images = sums.tolist()
        # Each rank's loss is scaled so that the mean over ranks is the global batch's loss.
        loss = loss_sum / ranks / self.steps
        if not torch.isfinite(torch.tensor(loss)):
            raise NonFiniteLoss(f"the loss is {loss} within the {self.steps} steps up to {step}")
        elapsed = time.perf_counter() - self._started
        self._images += images
        stats = StepStats(
            step=step,
            images=int(self._images),
            loss=loss,
            modified_fraction=modified / max(entries, 1),
            images_per_second=images / elapsed,
            wait_fraction=self.waited / elapsed,
        )
        self._reset()
        return stats

    def _reset(self) -> None:
        self.steps, self.waited, self._started = 0, 0.0, time.perf_counter()
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        self._counts = torch.zeros(2, dtype=torch.int64)  # known on the host: no device sync


def _black_like(images_BHWC: torch.Tensor) -> torch.Tensor:
    return images_BHWC.new_zeros((1, *images_BHWC.shape[1:]))
