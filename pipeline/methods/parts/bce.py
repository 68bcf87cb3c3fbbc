"""Binary cross-entropy of logits with some entries corrected or left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sharding.labels import POSITIVE


def negative_log(probabilities: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Compute ``-log(p + epsilon)``, the form of Cole et al. and Zhou et al."""
    return -torch.log(probabilities + epsilon)


def negative_losses(logits: torch.Tensor) -> torch.Tensor:
    """Compute the cross-entropy against target 0 in the very arithmetic of torch's function.

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
    """Sum the cross-entropy against AN targets, some entries corrected or rejected (0-dim fp32).

    Args:
        logits: fp32, any shape.
        labels: int8 in {+1, 0, -1}, same shape.
        corrected: bool mask of entries whose target becomes 1.
        rejected: bool mask of entries that contribute neither loss nor gradient.
    """
    positive = labels == POSITIVE
    if corrected is not None:
        positive = positive | corrected
    losses = F.softplus(torch.where(positive, -logits, logits))
    if rejected is not None:
        losses = losses.masked_fill(rejected, 0)
    # In float64: the small terms of confident predictions are most of a trained model's loss.
    return losses.sum(dtype=torch.float64).float()
