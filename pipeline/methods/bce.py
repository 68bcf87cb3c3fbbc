"""Binary cross-entropy of logits with some entries corrected or left out, in little memory.

The gradient is recomputed in the backward pass, so that nothing but the logits is held between
the passes and neither pass makes more than one matrix of B x K floats.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from sharding.labels import POSITIVE


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
    corrected: torch.Tensor | None = None,
    rejected: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum of the cross-entropy, AN targets but for the entries named (0-dim fp32).

    Args:
        logits: fp32, any shape.
        labels: int8 in {+1, 0, -1}, same shape.
        corrected: int64 flat positions whose target becomes 1.
        rejected: int64 flat positions that contribute nothing.
    """
    positives = torch.nonzero((labels == POSITIVE).view(-1))[:, 0]
    if corrected is not None:
        positives = torch.cat([positives, corrected])
    return _ModifiedBce.apply(logits, positives, rejected)


class _ModifiedBce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, positives: torch.Tensor, rejected: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(logits, positives, rejected)
        flat = logits.reshape(-1)
        losses = F.softplus(flat)
        # Not "sum minus the positives' logits": that cancels where a positive is confident.
        losses[positives] = F.softplus(-flat[positives])
        if rejected is not None:
            losses[rejected] = 0
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, positives, rejected = ctx.saved_tensors
        gradient = torch.sigmoid(logits)
        flat = gradient.view(-1)
        flat[positives] = -torch.sigmoid(-logits.reshape(-1)[positives])
        if rejected is not None:
            flat[rejected] = 0
        return gradient.mul_(upstream), None, None
