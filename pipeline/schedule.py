"""Learning-rate schedules as pure functions of progress, so that resuming needs no state."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "one-cycle"]
# torch.optim.lr_scheduler.OneCycleLR's defaults: start at 1/25 of the peak, end at 1/1e4 of that.
_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1 / 25e4


def factor(progress: float, kind: Schedule, warmup: float = 0.0) -> float:
    """The multiple of the base learning rate to train with.

    Args:
        progress: share of the whole training that is done, in [0, 1].
        kind: "constant" (the paper's), "cosine" (to zero), or "one-cycle" (cosine up during the
            warm-up, cosine down after it; the schedule of ASL and CSL, with warm-up 0.2).
        warmup: share of the training spent rising, linearly but for "one-cycle".
    """
    if progress < warmup:
        rise = progress / warmup
        return _between(_ONE_CYCLE_START, 1, rise) if kind == "one-cycle" else rise
    if kind == "constant":
        return 1.0
    fall = (progress - warmup) / (1 - warmup)
    return _between(1, _ONE_CYCLE_END if kind == "one-cycle" else 0, fall)


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
