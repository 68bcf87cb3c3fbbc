"""Stop all ranks at the same step after SIGTERM, or before Ray takes a node away.

Two things ask for it: SIGTERM of the driver (a scheduler, `ray job stop`), and a node that Ray
drains. Ranks that save a checkpoint have to do so at the same step, so one number is reduced over
them after every step. It is read a step later: no rank waits for it, and neither does a GPU.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from pipeline.cluster import tasks

if TYPE_CHECKING:
    import torch

# What a rank votes for; all follow the largest.
_CONTINUE, _ASK_RAY, _STOP = 0, 1, 2
_ON_SIGTERM = b"SIGTERM: saving a checkpoint at the next step; a second one ends at once\n"


class StopReason(enum.Enum):
    """Why ranks stop early: the driver is to end, a node is to be taken away, more of them fit."""

    SIGTERM = enum.auto()
    NODE_DRAINED = enum.auto()
    MORE_WORKERS = enum.auto()


class StopVote:
    """Agree over all ranks, after every step, whether to save and stop now.

    Args:
        rank: number of this process; the first one asks for all.
        device: where tensors are reduced.
        stop_requested: whether the driver got SIGTERM; must not wait. Only the first rank's counts.
        node_drained: whether a node of the run is to be taken away; all ranks call it together.
        every: seconds between calls of ``node_drained``.

    Attributes:
        reason: why to stop; None before.
    """

    def __init__(
        self,
        *,
        rank: int,
        device: torch.device,
        stop_requested: Callable[[], bool],
        node_drained: Callable[[], bool],
        every: float = 5.0,
    ) -> None:
        self._rank, self._device = rank, device
        self._stop_requested, self._node_drained = stop_requested, node_drained
        self._every, self._asked_at = every, time.monotonic()
        self._vote_1: torch.Tensor | None = None
        self._reduction: Any = None
        self.reason: StopReason | None = None

    def __call__(self) -> bool:
        """Read what was agreed after the step before, and vote again; every rank calls it."""
        agreed = self._agreed()
        if agreed == _STOP:
            self.reason = StopReason.SIGTERM
        elif agreed == _ASK_RAY and self._node_drained():
            self.reason = StopReason.NODE_DRAINED
        if self.reason is None:
            import torch

            from pipeline.ranks import has_group

            self._vote_1 = torch.full((1,), self._vote(), device=self._device)
            if has_group():
                self._reduction = torch.distributed.all_reduce(
                    self._vote_1, torch.distributed.ReduceOp.MAX, async_op=True
                )
        return self.reason is not None

    def _agreed(self) -> int:
        if self._vote_1 is None:
            return _CONTINUE
        if self._reduction is not None:
            self._reduction.wait()
        return int(self._vote_1.item())

    def _vote(self) -> int:
        if self._rank:
            return _CONTINUE
        if self._stop_requested():
            return _STOP
        now = time.monotonic()
        if now - self._asked_at < self._every:
            return _CONTINUE
        self._asked_at = now
        return _ASK_RAY


class Poll:
    """Ask an actor a yes-or-no question again and again without waiting for its answer.

    Args:
        ask: calls the actor; returns a Ray reference.
        every: seconds between questions.
    """

    def __init__(self, ask: Callable[[], Any], every: float = 1.0) -> None:
        self._ask, self._every = ask, every
        self._asked_at, self._reference = float("-inf"), None

    def __call__(self) -> bool:
        """Return whether an answer has come and is yes; an actor that is gone says no."""
        if self._reference is None:
            if time.monotonic() - self._asked_at < self._every:
                return False
            self._asked_at, self._reference = time.monotonic(), self._ask()
        if not tasks.is_ready(self._reference):
            return False
        answer, self._reference = tasks.answer(self._reference, otherwise=False), None
        return bool(answer)


@contextlib.contextmanager
def on_sigterm(act: Callable[[], Any]) -> Iterator[None]:
    """Call ``act`` on the first SIGTERM within the block; a second one does what it did before.

    Does nothing outside the main thread, where Python takes no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        os.write(2, _ON_SIGTERM)  # print is not for signal handlers
        act()

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
