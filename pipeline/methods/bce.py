"""Binary cross-entropy of logits with some entries corrected or left out, in little memory.

With targets 0, the sum of the losses is that of softplus(x) = max(x, 0) + log(1 + exp(-|x|)); a
target 1 takes x off it, a rejected entry takes its own term off. In float64 those differences
lose nothing. The gradient is recomputed in the backward pass: the forward pass makes no matrix
at all, and the backward pass no other than the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sharding.labels import POSITIVE

_CHUNK = 1 << 17
_FEW = 1 << 14  # below, preparing the buffers costs more than they save
# Factors of one product: each is at least 1/2, and a float64 holds 2 ** -1022.
_FACTORS = 512


def negative_log(probabilities: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """``-log(p + epsilon)``, the form of Cole et al. and Zhou et al."""
    return -torch.log(probabilities + epsilon)


def negative_losses(logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against target 0, in the very arithmetic of torch's own function.

    It is quantised to one unit in the last place of the logit and is exactly 0 below -14.56:
    which entries a large-loss method selects depends on it.
    """
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none")


def native(values: torch.Tensor) -> Any:
    """The same memory as a numpy array on the host, a tensor elsewhere.

    On the host numpy compares, indexes and partitions several times faster than torch.
    """
    return values.numpy() if values.device.type == "cpu" else values


def positions_of(mask_N: torch.Tensor) -> torch.Tensor:
    """Ascending int64 positions of what is true in a flat mask."""
    return torch.as_tensor(flat_positions(native(mask_N)))


def positions_equal(values_N: torch.Tensor, value: int) -> torch.Tensor:
    """Ascending int64 positions of what equals a value."""
    return torch.as_tensor(flat_positions(native(values_N) == value))


def positions_from(
    logits_N: torch.Tensor, bound: float, labels_N: torch.Tensor, state: int
) -> torch.Tensor:
    """Ascending int64 positions of logits of at least ``bound`` with a label of that state."""
    found = flat_positions(native(logits_N) >= bound)
    return torch.as_tensor(found[native(labels_N)[found] == state])


def flat_positions(mask_N: Any) -> Any:
    """Ascending int64 positions of what is true, of the kind of the mask (`native`).

    numpy's is many times faster than torch.nonzero. Up to a tenth of hits it jumps from one to the
    next, which a processor cannot foresee; beyond, it steps through all without a branch. Hits put
    at the end make it do so earlier.
    """
    if isinstance(mask_N, torch.Tensor):
        return torch.nonzero(mask_N)[:, 0]
    hits, N = np.count_nonzero(mask_N), len(mask_N)
    if not 0.02 < hits / max(N, 1) <= 0.1:
        return np.flatnonzero(mask_N)
    return np.flatnonzero(np.concatenate([mask_N, np.ones(N // 8, bool)]))[:hits]


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
    positives = positions_equal(labels.reshape(-1), POSITIVE)
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
        total = _softplus_sum(flat) - flat.index_select(0, positives).sum(dtype=torch.float64)
        if rejected is not None:
            total -= _softplus_sum(flat.index_select(0, rejected))
        return total.float()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, positives, rejected = ctx.saved_tensors
        gradient = torch.sigmoid(logits)
        flat = gradient.view(-1)
        logits_P = logits.reshape(-1).index_select(0, positives)
        flat.index_copy_(0, positives, -torch.sigmoid(-logits_P))
        if rejected is not None:
            flat.index_fill_(0, rejected, 0)
        return gradient.mul_(upstream), None, None


def _softplus_sum(logits_N: torch.Tensor) -> torch.Tensor:
    """Sum of log(1 + exp(x)), 0-dim float64.

    On the host: log(1 + exp(x)) = max(x, 0) - log(1 - sigmoid(-|x|)), and one logarithm of a
    product replaces 512 of them. Sigmoid is fast everywhere; the speed of log1p varies tenfold
    between machines.
    """
    if logits_N.device.type != "cpu" or len(logits_N) < _FEW:
        return F.softplus(logits_N).sum(dtype=torch.float64)
    total = 0.0
    width = -(-min(len(logits_N), _CHUNK) // _FACTORS)
    terms, factors = torch.zeros(width * _FACTORS), np.empty((_FACTORS, width))
    for chunk in logits_N.split(_CHUNK):
        part = terms[: len(chunk)]
        torch.clamp(chunk, min=0, out=part)
        total += float(part.sum())
        torch.sub(chunk, part, alpha=2, out=part).sigmoid_()  # of x - 2 max(x, 0) = -|x|
        terms[len(chunk) :] = 0
        # In float64: the small terms of confident predictions are most of a trained model's loss.
        np.subtract(1, terms.view(_FACTORS, width).numpy(), out=factors)
        total -= float(np.log(np.multiply.reduce(factors, axis=0)).sum())
    return torch.tensor(total, dtype=torch.float64)
