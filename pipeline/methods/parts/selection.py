"""The k largest losses among the unobserved entries of the global batch, exactly.

An unobserved entry counts as negative, so its loss grows with its logit, and the k-th largest
loss lies at the k-th largest unobserved logit -- in exact arithmetic. In floats the loss is a
step function of the logit, so entries within rounding error of the k-th logit are compared by
their losses, in the arithmetic of the reference; those above need no comparison. Ties at the
threshold are all selected.

That is the host's way, on numpy arrays, which compare, index and partition several times faster
than tensors there. A GPU computes all losses sooner than it is asked which ones are needed.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pipeline.methods.parts import entries
from pipeline.methods.parts.bce import negative_losses
from pipeline.methods.parts.collectives import Collectives, largest
from pipeline.methods.parts.entries import Array, Marked, flat_positions, mask_of, native
from sharding.labels import UNOBSERVED

# Of the sample that guesses where the k-th logit lies: runs of neighbours, because far apart each
# would be a cache miss.
_RUN, _STRIDE = 64, 97
_EPSILON = float(np.finfo(np.float32).eps)


def select_largest(
    logits_BK: torch.Tensor, labels_BK: torch.Tensor, k: int, ranks: Collectives
) -> Marked:
    """This rank's selected entries.

    Selected is what is unobserved, has a loss above 0 and is at least as large as the k-th
    largest loss of the unobserved entries over all ranks. Where fewer than k are unobserved, all
    of them with a loss above 0: observed labels are never selected (the reference would modify
    every entry then). Ranks exchange counts, not logits or losses (`Ranks.kth_largest`).

    Args:
        logits_BK: fp32.
        labels_BK: int8 in {+1, 0, -1}.
        k: at least 1, equal on all ranks.
        ranks: who shares the batch.
    """
    if not entries.on_host(logits_BK):  # what is observed counts as a loss of 0
        losses_BK = negative_losses(logits_BK.detach()).masked_fill_(labels_BK != UNOBSERVED, 0)
        losses_N = losses_BK.reshape(-1)
        return (losses_N >= ranks.kth_largest(losses_N, k)) & (losses_N > 0)
    logits_N, labels_N = native(logits_BK.detach().reshape(-1)), native(labels_BK.reshape(-1))
    found, bound = _most_likely(logits_N, labels_N, k)
    low, high = _doubt(_kth_largest(logits_N[found], k, ranks))
    if low < bound:
        found = _unobserved_from(logits_N, labels_N, low)
    logits_F = logits_N[found]
    surely_F = logits_F > high
    above = found[flat_positions(surely_F)]
    in_doubt = found[flat_positions((logits_F >= low) & ~surely_F)]
    losses = negative_losses(torch.as_tensor(logits_N[in_doubt]))
    threshold = ranks.kth_largest(losses, max(k - ranks.count(len(above)), 1))
    chosen = native((losses >= threshold) & (losses > 0))
    return torch.cat([torch.as_tensor(part) for part in (above, in_doubt[chosen])])


def unobserved_top(
    values_BK: torch.Tensor, labels_BK: torch.Tensor, k: int, ranks: Collectives
) -> torch.Tensor:
    """bool mask (B, K) of this rank's share of the k unobserved entries with the largest values.

    All unobserved entries where there are fewer than k. Of entries tied at the limit those are
    taken that come first in the global batch.

    Args:
        values_BK: fp32.
        labels_BK: int8 in {+1, 0, -1}.
        k: at least 0, equal on all ranks.
        ranks: who shares the batch.
    """
    if k < 1:
        return torch.zeros_like(labels_BK, dtype=torch.bool)
    values_N, labels_N = native(values_BK.detach().reshape(-1)), native(labels_BK.reshape(-1))
    found, _ = _most_likely(values_N, labels_N, k)
    values_F = values_N[found]
    limit = _kth_largest(values_F, k, ranks)
    above, tied = found[values_F > limit], found[values_F == limit]
    missing = k - ranks.count(len(above)) - ranks.count_before(len(tied))
    chosen = (torch.as_tensor(part) for part in (above, tied[: max(missing, 0)]))
    return mask_of(torch.cat(list(chosen)), labels_BK)


def _kth_largest(values: Array, k: int, ranks: Collectives) -> float:
    return float(ranks.kth_largest(torch.as_tensor(values), k))


def _most_likely(logits_N: Array, labels_N: Array, k: int) -> tuple[Array, float]:
    """(positions, bound): all unobserved entries with a logit of at least ``bound``.

    They are k or more, or all there are.
    """
    bound = _guess(logits_N, k)
    found = _unobserved_from(logits_N, labels_N, bound)
    if len(found) < k and bound > -math.inf:
        bound = -math.inf
        found = _unobserved_from(logits_N, labels_N, bound)
    return found, bound


def _guess(logits_N: Array, k: int) -> float:
    """A logit that somewhat more than k entries reach, read off a sample (Floyd and Rivest)."""
    runs = len(logits_N) // (_RUN * _STRIDE)
    sample = logits_N[: runs * _RUN * _STRIDE].reshape(runs, _STRIDE, _RUN)[:, 0].reshape(-1)
    expected = k / _STRIDE
    # Well above: a guess that is too high costs a search through everything.
    rank = int(1.1 * expected + 4 * math.sqrt(expected)) + 8
    if rank > len(sample):
        return -math.inf
    return float(largest(torch.as_tensor(sample), rank).min())


def _unobserved_from(logits_N: Array, labels_N: Array, bound: float) -> Array:
    if bound == -math.inf:
        return flat_positions(labels_N == UNOBSERVED)
    found = flat_positions(logits_N >= bound)
    return found[labels_N[found] == UNOBSERVED]


def _doubt(logit: float) -> tuple[float, float]:
    """Logits (from, to) whose rounded losses need not be in the order of the logits themselves.

    The loss is computed with an error of a few units in the last place of max(1, |x|); its slope
    is sigmoid(x). Far below zero the losses round to 0, and everything is in doubt.
    """
    if not math.isfinite(logit) or logit < -80:
        return -math.inf, math.inf
    margin = 16 * _EPSILON * max(1.0, abs(logit)) * (1 + math.exp(-logit))
    return logit - margin, logit + margin
