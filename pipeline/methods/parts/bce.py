"""Binary cross-entropy of logits, some entries corrected or left out, in little time and memory.

With p = sigmoid(x) the loss of an entry is -log(1 - p) for target 0 and -log(1 - sigmoid(-x)) for
target 1, and its gradient p or p - 1: one sigmoid serves both. On the host the forward pass makes
the gradient and reads the sum of the losses off it; the backward pass only scales it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.methods.parts import entries
from pipeline.methods.parts.entries import Marked, either, flat_positions, marked, native
from sharding.labels import POSITIVE

_CHUNK = 1 << 17
# Factors of one product. Each is at least 1/200, and a float64 holds 2 ** -1022.
_FACTORS = 128
# Beyond, 1 - p of a float32 p is too coarse for a logarithm; here it costs up to 4e-6 of the loss.
_NEAR_1 = 0.995


def negative_log(probabilities: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """``-log(p + epsilon)``, the form of Cole et al. and Zhou et al."""
    return -torch.log(probabilities + epsilon)


def negative_losses(logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against target 0, in the very arithmetic of torch's own function.

    It is quantised to one unit in the last place of the logit and is exactly 0 below -14.56:
    which entries a large-loss method selects depends on it.
    """
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none")


def modified_bce_sum(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    corrected: Marked | None = None,
    rejected: Marked | None = None,
) -> torch.Tensor:
    """Sum of the cross-entropy, AN targets but for the entries named (0-dim fp32).

    Args:
        logits: fp32, any shape.
        labels: int8 in {+1, 0, -1}, same shape.
        corrected: entries that are not positive, whose target becomes 1.
        rejected: such entries that contribute nothing.
    """
    positives = marked(native(labels.reshape(-1)) == POSITIVE)
    if corrected is not None:
        positives = either(positives, corrected)
    if entries.on_host(logits):
        return _ModifiedBce.apply(logits, positives, rejected)
    logits_N = logits.reshape(-1)
    losses_N = F.softplus(torch.where(positives, -logits_N, logits_N))
    if rejected is not None:
        losses_N = losses_N.masked_fill(rejected, 0)
    return losses_N.sum(dtype=torch.float64).float()


class _ModifiedBce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, positives: torch.Tensor, rejected: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(logits, positives, rejected)
        total, ctx.gradient_N = _sum_and_gradient(logits.reshape(-1), positives, rejected)
        return total.float()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, positives, rejected = ctx.saved_tensors
        # Scaled in place, so it serves once; whoever asks again has it made again.
        gradient_N, ctx.gradient_N = ctx.gradient_N, None
        if gradient_N is None:
            _, gradient_N = _sum_and_gradient(logits.reshape(-1), positives, rejected)
        return gradient_N.mul_(upstream).view(logits.shape), None, None


def _sum_and_gradient(
    logits_N: torch.Tensor, positives: torch.Tensor, rejected: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of the losses, 0-dim float64; its gradient fp32 (N,))."""
    gradient_N = torch.sigmoid(logits_N)
    if rejected is not None:
        gradient_N.index_fill_(0, rejected, 0)
    gradient_N.index_fill_(0, positives, 0)
    total = _absent_sum(gradient_N, logits_N)
    opposite_P = -logits_N.index_select(0, positives)
    absent_P = torch.sigmoid(opposite_P)
    total += _absent_sum(absent_P, opposite_P)
    gradient_N.index_copy_(0, positives, absent_P.neg_())
    return total, gradient_N


def _absent_sum(probabilities_N: torch.Tensor, logits_N: torch.Tensor) -> torch.Tensor:
    """Sum of log(1 + exp(x)) over the entries whose probability is not 0, 0-dim float64.

    It is that of -log(1 - p), and one logarithm of a product replaces 128 of them: sigmoid is fast
    everywhere, but the speed of log1p varies tenfold between machines.

    Args:
        probabilities_N: sigmoid of the logits, or 0 where an entry does not count.
        logits_N: fp32.
    """
    total = 0.0
    width = -(-min(len(logits_N), _CHUNK) // _FACTORS)
    factors = np.empty((_FACTORS, width))
    chunks = zip(probabilities_N.split(_CHUNK), logits_N.split(_CHUNK), strict=True)
    for part, logits in chunks:
        # In float64: the small terms of confident predictions are most of a trained model's loss.
        filled = factors.reshape(-1)[: len(part)]
        np.copyto(filled, part.numpy())
        np.subtract(1, filled, out=filled)
        factors.reshape(-1)[len(part) :] = 1
        if np.max(part.numpy(), initial=0) > _NEAR_1:
            near = flat_positions(part.numpy() > _NEAR_1)
            filled[near] = part.numpy()[near]  # log(1 + exp(x)) = x - log(p)
            total += float(logits[near].sum(dtype=torch.float64))
        total -= float(np.log(np.multiply.reduce(factors, axis=0)).sum())
    return torch.tensor(total, dtype=torch.float64)
