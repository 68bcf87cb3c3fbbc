"""Exact selection of the largest unobserved entries of the global batch.

One code for CPU and GPU, on masks. Ranks exchange counts, not logits or losses
(`Collectives.kth_largest`).
"""

from __future__ import annotations

import torch

from pipeline.methods.parts.bce import negative_losses
from pipeline.methods.parts.collectives import Collectives
from sharding.labels import UNOBSERVED


def select_largest(
    logits_BK: torch.Tensor, labels_BK: torch.Tensor, k: int, ranks: Collectives
) -> torch.Tensor:
    """Select the k largest losses among the unobserved entries over all ranks, ties included.

    Selected is what is unobserved, has a loss above 0 and is at least as large as the k-th
    largest loss of the unobserved entries over all ranks. Where fewer than k are unobserved, all
    of them with a loss above 0: observed labels are never selected (the reference would modify
    every entry then). Losses are compared, not logits: in floats the loss is a step function of
    the logit, and entries that tie for the reference must tie here.

    Args:
        logits_BK: fp32.
        labels_BK: int8 in {+1, 0, -1}.
        k: at least 1, equal on all ranks.
        ranks: who shares the batch.

    Returns:
        bool mask (B, K) of this rank's selected entries.
    """
    losses_BK = negative_losses(logits_BK.detach()).masked_fill_(labels_BK != UNOBSERVED, 0)
    threshold = ranks.kth_largest(losses_BK.flatten(), k)
    return (losses_BK >= threshold) & (losses_BK > 0)


def unobserved_top(
    values_BK: torch.Tensor, labels_BK: torch.Tensor, k: int, ranks: Collectives
) -> torch.Tensor:
    """Select exactly k unobserved entries with the largest values over all ranks.

    All unobserved entries where there are fewer than k. Of entries tied at the limit those are
    taken that come first in the global batch.

    Args:
        values_BK: fp32, finite.
        labels_BK: int8 in {+1, 0, -1}.
        k: at least 0, equal on all ranks.
        ranks: who shares the batch.

    Returns:
        bool mask (B, K) of this rank's share.
    """
    unobserved_BK = labels_BK == UNOBSERVED
    if k < 1:
        return torch.zeros_like(unobserved_BK)
    values_BK = values_BK.detach().masked_fill(~unobserved_BK, -torch.inf)
    limit = ranks.kth_largest(values_BK.flatten(), k)
    above_BK, tied_BK = values_BK > limit, unobserved_BK & (values_BK == limit)
    places = k - ranks.count(int(above_BK.sum())) - ranks.count_before(int(tied_BK.sum()))
    first_BK = tied_BK.flatten().cumsum(0).view(tied_BK.shape) <= places
    return above_BK | (tied_BK & first_BK)
