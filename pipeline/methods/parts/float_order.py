"""Map fp32 to integers of the same order, and back: to sort, count and pack them with others."""

from __future__ import annotations

import torch


def ordered_integers(values: torch.Tensor) -> torch.Tensor:
    """Encode fp32 as int32 that compare as the floats do, -0.0 below 0.0; NaN has no place."""
    return _folded(values.view(torch.int32))


def floats_of(integers: torch.Tensor) -> torch.Tensor:
    """Decode `ordered_integers`."""
    return _folded(integers).view(torch.float32)


def _folded(bits: torch.Tensor) -> torch.Tensor:
    """Turn the order of the negative floats, whose bits sort in reverse; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
