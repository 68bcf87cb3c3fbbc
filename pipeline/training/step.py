"""Take one optimizer step: precision, micro-batches, clipping, learning rate, moving average.

The batch of a loss is the global batch, also where it does not fit into memory: micro-batches are
scored first without gradients, the method sees all their logits at once, and each micro-batch is
then run again, with the same random numbers (dropout, stochastic depth), with its share of the
gradient. Masks and loss equal those of one large batch.

The learning rate is a pure function of progress, so that resuming needs no state of a scheduler.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.config.sections import OptimizerConfig, Schedule
from pipeline.data.labels import LabelledBatch
from pipeline.data.loader import Batch
from pipeline.methods import Method, Phase
from pipeline.methods.protocol import StepResult
from pipeline.models import batch_norm
from pipeline.models.cam_net import CamNet
from pipeline.training import distributed
from pipeline.training.timing import RankTimer

RandomState = tuple[torch.Tensor, ...]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# torch.optim.lr_scheduler.OneCycleLR's defaults: start at 1/25 of the peak, end at 1/1e4 of that.
_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1 / 25e4


class TrainStep:
    """Turns batches into updates of a model.

    Args:
        model: maps uint8 images (B, H, W, 3) to logits (B, K); wrapped for DDP, or cut by FSDP.
        method: the loss.
        optimizer: its groups' learning rates are the base rates of the schedule.
        config: precision, micro-batches, clipping, schedule.
        averaged: of `moving_average`, made before the model was wrapped or cut; None for none.

    Attributes:
        timer: how long this rank's forward passes take.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        method: Method,
        optimizer: torch.optim.Optimizer,
        config: OptimizerConfig,
        averaged: AveragedModel | None = None,
    ) -> None:
        self.model, self.method, self.optimizer = model, method, optimizer
        self.config, self.device = config, next(model.parameters()).device
        self._phase = Phase()
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.averaged = averaged
        self.timer = RankTimer(_unwrapped(model), self.device)

    def enter(self, phase: Phase, *, resumed: bool = False) -> None:
        """Enter a method's phase; ``resumed`` within it, where the optimizer keeps its state."""
        self._phase = phase
        inner = _unwrapped(self.model)
        if isinstance(inner, CamNet):
            inner.freeze_backbone(phase.backbone_frozen)
        if phase.resets_optimizer and not resumed:
            self.optimizer.state.clear()

    def __call__(self, batch: LabelledBatch, progress: float = 0.0) -> StepResult:
        """Take one step; ``progress`` is the share of the whole training that is done."""
        rate = (
            learning_rate_factor(progress, self.config.schedule, self.config.warmup)
            * self._phase.rate
        )
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * rate
        self.optimizer.zero_grad(set_to_none=True)
        result = self._backward(batch)
        self._scaler.unscale_(self.optimizer)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if self._phase.backbone_frozen:
            # Its gradients are 0, with which Adam would count steps and then begin too fast.
            for weights in self.optimizer.param_groups[0]["params"]:
                weights.grad = None
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.averaged is not None:
            self.averaged.update_parameters(_unwrapped(self.model))
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the weights and the optimizer's state."""
        averaged = None if self.averaged is None else self.averaged.state_dict()
        return {"scaler": self._scaler.state_dict(), "averaged": averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            distributed.load(self.averaged, state["averaged"])

    def _backward(self, batch: LabelledBatch) -> StepResult:
        parts = list(_split(batch, self.config.micro_batches))
        random: list[RandomState] = []
        if len(parts) == 1:
            logits_BK = self._forward(batch)
        else:
            logits_BK, random = self._score(parts)
        labels_BK = batch.dense()
        evidence_BK = batch.dense_confidences() if self.method.uses_confidences else None
        loss, modified_BK = self.method.loss(logits_BK, labels_BK, batch.sample_ids, evidence_BK)
        self._scaler.scale(loss).backward()
        if len(parts) > 1:
            self._backward_parts(parts, logits_BK, random)
        return StepResult(
            batch=batch,
            loss=loss.detach(),
            logits_BK=logits_BK.detach(),
            labels_BK=labels_BK,
            modified_BK=modified_BK,
        )

    def _score(self, parts: list[Batch]) -> tuple[torch.Tensor, list[RandomState]]:
        """Compute the logits of all micro-batches without the memory of their gradients.

        Returns them, and where torch's generators stood before each part.
        """
        logits: list[torch.Tensor] = []
        random: list[RandomState] = []
        with torch.no_grad(), _frozen_statistics(self.model):
            for part in parts:
                random.append(random_state(self.device))
                logits.append(self._forward(part))
        return torch.cat(logits).requires_grad_(), random

    def _backward_parts(
        self, parts: list[Batch], logits_BK: torch.Tensor, random: list[RandomState]
    ) -> None:
        """Run each micro-batch with the gradient of its logits; ranks synchronise in the last."""
        assert logits_BK.grad is not None
        begin = 0
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            set_random_state(random[number], self.device)
            with contextlib.nullcontext() if last else distributed.unsynchronised(self.model):
                gradient_BK = logits_BK.grad[begin : begin + len(part)]
                self._forward(part).backward(gradient_BK)
            begin += len(part)

    def _forward(self, batch: Batch) -> torch.Tensor:
        # A rank whose share is empty must still join the collectives: it runs one black image
        # whose logits are then dropped, and which trains nothing.
        B = len(batch)
        images_BHWC = batch.images_BHWC
        if not B:
            images_BHWC = images_BHWC.new_zeros((1, *images_BHWC.shape[1:]))
        dtype = _DTYPES[self.config.precision]
        mixed = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        with mixed, batch_norm.of_few_images(self.model, B):
            logits_BK = self.model(images_BHWC)
        return logits_BK[:B].float()


def random_state(device: torch.device) -> RandomState:
    """Copy the states of torch's generators: of the host, and of the GPU if there is one."""
    host = torch.get_rng_state()
    return (host, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (host,)


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Bring torch's generators into a state; one of a CPU leaves a GPU's as it is."""
    torch.set_rng_state(state[0])
    if device.type == "cuda" and len(state) > 1:
        torch.cuda.set_rng_state(state[1], device)


def learning_rate_factor(progress: float, kind: Schedule, warmup: float = 0.0) -> float:
    """Compute the multiple of the base learning rate to train with.

    Args:
        progress: share of the whole training that is done, in [0, 1].
        kind: "constant" (the paper's), "cosine" (to zero), or "one-cycle" (cosine up during the
            warm-up, cosine down after it; the schedule of ASL and CSL, with warm-up 0.2).
        warmup: share of the training spent rising, linearly but for "one-cycle".
    """
    if progress < warmup:
        rise = progress / warmup
        return _cosine(_ONE_CYCLE_START, 1, rise) if kind == "one-cycle" else rise
    if kind == "constant":
        return 1.0
    fall = (progress - warmup) / (1 - warmup)
    return _cosine(1, _ONE_CYCLE_END if kind == "one-cycle" else 0, fall)


def _cosine(start: float, end: float, share: float) -> float:
    """Interpolate on half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def moving_average(network: nn.Module, decay: float | None) -> AveragedModel | None:
    """Make an exponential moving average of ``network``'s weights, or None without a decay."""
    if decay is None:
        return None
    follow: Any = get_ema_multi_avg_fn(decay)

    def average(averages: Any, currents: Any, count: Any) -> None:
        # Shards and whole buffers do not mix in one call.
        follow(
            *([distributed.local(t) for t in tensors] for tensors in (averages, currents)), count
        )

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def _split(batch: Batch, count: int) -> Iterator[Batch]:
    """Cut a batch into ``count`` parts, empty ones included, so that ranks stay in step."""
    size = -(-len(batch) // count)
    for begin in range(0, size * count, size) if size else [0] * count:
        yield Batch(
            images_BHWC=batch.images_BHWC[begin : begin + size],
            image_ids_B=batch.image_ids_B[begin : begin + size],
        )


@contextlib.contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Keep batch norm from counting the batch in its running statistics, which it would twice."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _unwrapped(model: nn.Module) -> nn.Module:
    inner = getattr(model, "module", model)
    assert isinstance(inner, nn.Module)
    return inner
