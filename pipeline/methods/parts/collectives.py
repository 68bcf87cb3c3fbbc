"""Collectives over the ranks of a global batch: sums, the k-th largest value, concatenation.

Shares may differ in size between ranks and may be empty: each function here is joined by every
rank, in the same order, with tensors whose shapes do not depend on the share.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from pipeline.methods.parts.float_order import floats_of, ordered_integers
from pipeline.ranks import has_group

# (shift, values) of the three digits of a 32-bit code, the most significant first.
_DIGITS = ((21, 1 << 11), (10, 1 << 11), (0, 1 << 10))
_LOWEST = 1 << 31


class Collectives:
    """The processes that share a batch; one process where torch.distributed is not initialised.

    A loss is returned as ``world_size`` times this rank's share of the global loss, so that the
    mean over ranks is the loss of one process.
    """

    @property
    def world_size(self) -> int:
        """Return the number of ranks; methods may be made before the process group is."""
        return dist.get_world_size() if has_group() else 1

    def batch_size(self, logits_BK: torch.Tensor) -> int:
        """Count the global batch's rows, at least 1: an empty one has loss 0, not NaN."""
        return max(1, self.count(len(logits_BK)))

    def count(self, local: int) -> int:
        """Sum a number over ranks."""
        return local if self.world_size == 1 else int(self.sum(torch.tensor(local)))

    def count_before(self, local: int) -> int:
        """Sum a number over the ranks that come before this one."""
        if self.world_size == 1:
            return 0
        counts = self.concatenate(torch.tensor([local]))
        return int(counts[: dist.get_rank()].sum())

    def sum(self, local: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, without gradient."""
        total = local.detach().clone()
        if self.world_size > 1:
            total = total.to(self._device())
            dist.all_reduce(total)
        return total.to(local.device)

    def total(self, local: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, with a gradient into this rank's term alone."""
        return local if self.world_size == 1 else local + (self.sum(local) - local.detach())

    def share(self, local: torch.Tensor) -> torch.Tensor:
        """Scale this rank's term of a global sum to the loss to return."""
        return local * self.world_size

    def whole(self, value: torch.Tensor) -> torch.Tensor:
        """Scale a term computed from `total`, whose value is global, to the loss to return."""
        W = self.world_size
        return value if W == 1 else W * value - (W - 1) * value.detach()

    def kth_largest(self, values: torch.Tensor, k: int) -> torch.Tensor:
        """Find the k-th largest value over all ranks (0-dim), -inf where there are fewer than k.

        Several ranks find it digit by digit, from counts: three sums of 16 KiB, however large k is
        and however many ranks there are.

        Args:
            values: fp32, this rank's values, any number of them.
            k: at least 1, equal on all ranks.
        """
        top = torch.topk(values, min(k, len(values)), sorted=False).values
        if self.world_size == 1:
            return top.min() if len(top) == k else values.new_tensor(-torch.inf)
        codes, code, missing = _codes_of(top), 0, k
        for shift, digits in _DIGITS:
            digits_M = (codes >> shift) & (digits - 1)
            counts = self.sum(torch.bincount(digits_M, minlength=digits)).cpu()
            reached = counts.flip(0).cumsum(0)
            if reached[-1] < missing:
                return values.new_tensor(-torch.inf)
            place = int((reached < missing).sum())  # digits wholly above the k-th value
            missing -= int(reached[place - 1]) if place else 0
            digit = digits - 1 - place
            codes = codes[digits_M == digit]
            code |= digit << shift
        integer = torch.tensor(code - _LOWEST, dtype=torch.int32)
        return floats_of(integer).to(values.device)

    def concatenate(self, local: torch.Tensor) -> torch.Tensor:
        """Concatenate the ranks' tensors along the first dimension, in rank order."""
        if self.world_size == 1:
            return local
        device = self._device()
        lengths = torch.zeros(self.world_size, dtype=torch.int64, device=device)
        lengths[dist.get_rank()] = len(local)
        dist.all_reduce(lengths)
        counts = lengths.tolist()
        padded = torch.zeros((max(counts), *local.shape[1:]), dtype=local.dtype, device=device)
        padded[: len(local)] = local.to(device)
        parts = [torch.empty_like(padded) for _ in counts]
        if max(counts):
            dist.all_gather(parts, padded)
        joined = [part[:count] for part, count in zip(parts, counts, strict=True)]
        return torch.cat(joined).to(local.device)

    def _device(self) -> torch.device:
        # NCCL moves tensors of the current CUDA device only; gloo those of the host.
        cuda = "nccl" in dist.get_backend()
        return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def _codes_of(values: torch.Tensor) -> torch.Tensor:
    """Encode fp32 as int64 in [0, 2**32), whose digits can be counted."""
    return ordered_integers(values.detach().float()).long() + _LOWEST
