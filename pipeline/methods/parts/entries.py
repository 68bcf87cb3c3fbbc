"""Some entries of a tensor: their positions on the host, a mask of all entries on a GPU.

On the host numpy compares, indexes and partitions several times faster than torch does there, and
a few positions are less work than a mask. A GPU would have to be waited for to say how many there
are, and goes through all entries sooner.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = Any
"""As `native` gives it: a numpy array on the host, a tensor elsewhere."""

Marked = torch.Tensor
"""Entries as `marked` gives them: int64 flat positions on the host, else a flat bool mask."""


def on_host(values: torch.Tensor) -> bool:
    """Whether numpy can work on the memory of a tensor."""
    return values.device.type == "cpu"


def native(values: torch.Tensor) -> Array:
    """The same memory as a numpy array on the host, the tensor itself elsewhere."""
    return values.numpy() if on_host(values) else values


def marked(mask_N: Array) -> Marked:
    """What is true in a flat mask, of the kind that `native` gives."""
    return mask_N if isinstance(mask_N, torch.Tensor) else torch.from_numpy(flat_positions(mask_N))


def either(one: Marked, other: Marked) -> Marked:
    """The entries of both; none may be in both, and their order is lost."""
    return one | other if one.dtype == torch.bool else torch.cat([one, other])


def mask_of(entries: Marked, like_BK: torch.Tensor) -> torch.Tensor:
    """bool (B, K), true where an entry is marked."""
    if entries.dtype == torch.bool:
        return entries.view(like_BK.shape)
    mask_N = torch.zeros(like_BK.numel(), dtype=torch.bool, device=like_BK.device)
    return mask_N.index_fill_(0, entries, True).view(like_BK.shape)


def positions_of(entries: Marked) -> torch.Tensor:
    """int64 flat positions, for which a GPU is waited for."""
    return flat_positions(entries) if entries.dtype == torch.bool else entries


def flat_positions(mask_N: Array) -> Array:
    """Ascending int64 positions of what is true, of the kind of the mask.

    numpy's is many times faster than torch.nonzero. Up to a tenth of hits it jumps from one to the
    next, which a processor cannot foresee; beyond, it steps through all without a branch. Hits put
    at the end make it do so earlier. Where hits are few, eight entries are skipped at a time.
    """
    if isinstance(mask_N, torch.Tensor):
        return torch.nonzero(mask_N)[:, 0]
    hits, N = np.count_nonzero(mask_N), len(mask_N)
    if hits < N // 400:
        return _few_positions(mask_N)
    if not 0.02 < hits / max(N, 1) <= 0.1:
        return np.flatnonzero(mask_N)
    return np.flatnonzero(np.concatenate([mask_N, np.ones(N // 8, bool)]))[:hits]


def _few_positions(mask_N: np.ndarray) -> np.ndarray:
    whole = len(mask_N) // 8 * 8
    mask_W8 = np.ascontiguousarray(mask_N[:whole]).reshape(-1, 8)
    words = np.flatnonzero(mask_W8.view(np.uint64)[:, 0] != 0)
    rows, columns = np.nonzero(mask_W8[words])
    return np.concatenate([8 * words[rows] + columns, whole + np.flatnonzero(mask_N[whole:])])
