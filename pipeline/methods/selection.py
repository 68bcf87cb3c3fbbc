"""The k largest losses among the unobserved entries of the global batch, exactly.

An unobserved entry counts as negative, so its loss grows with its logit, and the k-th largest
loss lies at the k-th largest unobserved logit -- in exact arithmetic. In floats the loss is a
step function of the logit, so entries within rounding error of the k-th logit are compared by
their losses, in the arithmetic of the reference; those above need no comparison. Ties at the
threshold are all selected.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pipeline.methods.bce import (
    negative_losses,
    positions_equal,
    positions_from,
    positions_of,
)
from pipeline.methods.ranks import Ranks, largest
from sharding.labels import UNOBSERVED

# Of the sample that guesses where the k-th logit lies: runs of neighbours, because far apart each
# would be a cache miss.
_RUN, _STRIDE = 64, 389
_EPSILON = float(np.finfo(np.float32).eps)


def select_largest(
    logits_BK: torch.Tensor, labels_BK: torch.Tensor, k: int, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor]:
    """(flat positions int64, bool mask (B, K)) of this rank's selected entries.

    Selected is what is unobserved, has a loss above 0 and is at least as large as the k-th
    largest loss of the unobserved entries over all ranks. Where fewer than k are unobserved, all
    of them with a loss above 0: observed labels are never selected (the reference would modify
    every entry then). Each rank sends k logits, then as many losses as are in doubt.

    Args:
        logits_BK: fp32.
        labels_BK: int8 in {+1, 0, -1}.
        k: at least 1, equal on all ranks.
        ranks: who shares the batch.
    """
    logits_N, labels_N = logits_BK.detach().reshape(-1), labels_BK.reshape(-1)
    found, bound = _most_likely(logits_N, labels_N, k)
    low, high = _doubt(float(ranks.kth_largest(logits_N.index_select(0, found), k)))
    if low < bound:
        found = _unobserved_from(logits_N, labels_N, low)
    logits_F = logits_N.index_select(0, found)
    above = _where(found, logits_F > high)
    in_doubt = _where(found, (logits_F >= low) & (logits_F <= high))
    losses = negative_losses(logits_N[in_doubt])
    left = k - int(ranks.sum(torch.tensor(len(above), device=logits_N.device)))
    threshold = ranks.kth_largest(losses, max(left, 1))
    selected = torch.cat([above, in_doubt[(losses >= threshold) & (losses > 0)]])
    mask_BK = torch.zeros(labels_BK.shape, dtype=torch.bool, device=labels_BK.device)
    mask_BK.view(-1).index_fill_(0, selected, True)
    return selected, mask_BK


def unobserved_top(
    logits_BK: torch.Tensor, labels_BK: torch.Tensor, k: int, ranks: Ranks
) -> torch.Tensor:
    """bool mask (B, K): unobserved entries whose logit reaches the k-th largest over all ranks.

    All unobserved entries where there are fewer than k; ties at the threshold are all in.
    """
    logits_N, labels_N = logits_BK.detach().reshape(-1), labels_BK.reshape(-1)
    mask_BK = torch.zeros(labels_BK.shape, dtype=torch.bool, device=labels_BK.device)
    if k < 1:
        return mask_BK
    found, _ = _most_likely(logits_N, labels_N, k)
    logits_F = logits_N.index_select(0, found)
    chosen = _where(found, logits_F >= ranks.kth_largest(logits_F, k))
    mask_BK.view(-1).index_fill_(0, chosen, True)
    return mask_BK


def _most_likely(
    logits_N: torch.Tensor, labels_N: torch.Tensor, k: int
) -> tuple[torch.Tensor, float]:
    """(positions, bound): all unobserved entries with a logit of at least ``bound``.

    They are k or more, or all there are.
    """
    bound = _guess(logits_N, k)
    found = _unobserved_from(logits_N, labels_N, bound)
    if len(found) < k and bound > -math.inf:
        bound = -math.inf
        found = _unobserved_from(logits_N, labels_N, bound)
    return found, bound


def _guess(logits_N: torch.Tensor, k: int) -> float:
    """A logit that somewhat more than k entries reach, read off a sample (Floyd and Rivest)."""
    runs = len(logits_N) // (_RUN * _STRIDE)
    sample = logits_N[: runs * _RUN * _STRIDE].view(runs, _STRIDE, _RUN)[:, 0].flatten()
    expected = k / _STRIDE
    # Well above: a guess that is too high costs a search through everything.
    rank = int(1.1 * expected + 4 * math.sqrt(expected)) + 8
    return float(largest(sample, rank).min()) if rank <= len(sample) else -math.inf


def _unobserved_from(logits_N: torch.Tensor, labels_N: torch.Tensor, bound: float) -> torch.Tensor:
    if bound == -math.inf:
        return positions_equal(labels_N, UNOBSERVED)
    return positions_from(logits_N, bound, labels_N, UNOBSERVED)


def _where(positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return positions.index_select(0, positions_of(mask))


def _doubt(logit: float) -> tuple[float, float]:
    """Logits (from, to) whose rounded losses need not be in the order of the logits themselves.

    The loss is computed with an error of a few units in the last place of max(1, |x|); its slope
    is sigmoid(x). Far below zero the losses round to 0, and everything is in doubt.
    """
    if not math.isfinite(logit) or logit < -80:
        return -math.inf, math.inf
    margin = 16 * _EPSILON * max(1.0, abs(logit)) * (1 + math.exp(-logit))
    return logit - margin, logit + margin
