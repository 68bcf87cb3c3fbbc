"""The k largest losses among the unobserved entries of the global batch, exactly.

An unobserved entry counts as negative, so its loss grows with its logit, and the k-th largest
loss lies at the k-th largest unobserved logit -- in exact arithmetic. In floats the loss is a
step function of the logit: entries within a rounding error of the k-th logit are compared by
their losses, in the arithmetic of the reference. Ties at the threshold are all selected.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pipeline.methods.bce import negative_losses
from pipeline.methods.ranks import Ranks
from sharding.labels import UNOBSERVED

_STRIDE = 97  # of the sample that guesses the threshold
_SLACK = 1.15
_EPSILON = float(np.finfo(np.float32).eps)


def select_largest(
    logits_BK: torch.Tensor, labels_BK: torch.Tensor, k: int, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor]:
    """(flat positions int64, bool mask (B, K)) of this rank's selected entries.

    Selected is what is unobserved, has a loss above 0 and is at least as large as the k-th
    largest loss of the unobserved entries over all ranks. Where fewer than k are unobserved, all
    of them with a loss above 0: observed labels are never selected (the reference would modify
    every entry then).

    Args:
        logits_BK: fp32.
        labels_BK: int8 in {+1, 0, -1}.
        k: at least 1.
        ranks: who shares the batch.
    """
    logits_N, labels_N = logits_BK.detach().reshape(-1), labels_BK.reshape(-1)
    if logits_N.device.type == "cpu":
        candidates = torch.from_numpy(_candidates(logits_N.numpy(), labels_N.numpy(), k))
    else:
        candidates = torch.nonzero(labels_N == UNOBSERVED)[:, 0]
    losses = negative_losses(logits_N[candidates])
    threshold = ranks.kth_largest(losses, k)
    selected_M = candidates[(losses >= threshold) & (losses > 0)]
    mask_BK = torch.zeros(labels_BK.shape, dtype=torch.bool, device=labels_BK.device)
    mask_BK.view(-1)[selected_M] = True
    return selected_M, mask_BK


def _candidates(logits_N: np.ndarray, labels_N: np.ndarray, k: int) -> np.ndarray:
    """Ascending flat positions that surely hold the k largest losses and all ties with them."""
    bound = _guess(logits_N, k)
    found = _unobserved_from(logits_N, labels_N, bound)
    if len(found) < k:
        bound = -math.inf
        found = np.flatnonzero(labels_N == UNOBSERVED)
    if len(found) <= k:
        return found
    logits_F = logits_N[found]
    kth = float(np.partition(logits_F, len(found) - k)[len(found) - k])
    lowest = kth - _margin(kth)
    if lowest < bound:
        return _unobserved_from(logits_N, labels_N, lowest)
    return found[logits_F >= lowest]


def _guess(logits_N: np.ndarray, k: int) -> float:
    """A logit that somewhat more than k entries reach, read off a sample (Floyd and Rivest)."""
    sample = np.sort(logits_N[::_STRIDE])
    rank = int(k / _STRIDE * _SLACK) + 8
    return float(sample[-rank]) if rank <= len(sample) else -math.inf


def _unobserved_from(logits_N: np.ndarray, labels_N: np.ndarray, bound: float) -> np.ndarray:
    found = np.flatnonzero(logits_N >= np.float32(bound))
    return found[labels_N[found] == UNOBSERVED]


def _margin(logit: float) -> float:
    """How far below ``logit`` a rounded loss may still equal that of ``logit``.

    The loss is computed with an error of a few units in the last place of max(1, |x|); its slope
    is sigmoid(x). Far below zero the margin is infinite: there the losses round to 0.
    """
    if not math.isfinite(logit):
        return math.inf
    inverse_slope = 1 + math.exp(-logit) if logit > -80 else math.inf
    return 16 * _EPSILON * max(1.0, abs(logit)) * inverse_slope
