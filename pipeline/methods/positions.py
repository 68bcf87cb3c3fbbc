"""Positions of what is true in a mask, as fast as the host can.

On the host numpy compares, indexes and partitions several times faster than torch does there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = Any
"""As `native` gives it: a numpy array on the host, a tensor elsewhere."""


def on_host(values: torch.Tensor) -> bool:
    """Whether numpy can work on the memory of a tensor."""
    return values.device.type == "cpu"


def native(values: torch.Tensor) -> Array:
    """The same memory as a numpy array on the host, the tensor itself elsewhere."""
    return values.numpy() if on_host(values) else values


def positions_of(mask_N: Array) -> torch.Tensor:
    """Ascending int64 positions of what is true, as a tensor."""
    return torch.as_tensor(flat_positions(mask_N))


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
