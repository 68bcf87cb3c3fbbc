"""A notice to leave the machines: given to one process, agreed on by all ranks at one step.

Two things give notice: SIGTERM of the driver (a scheduler, `ray job stop`), and a node that Ray
drains because it is to be taken away. Ranks that save a checkpoint have to do so at the same step,
so one number is reduced over them after every step. It is read a step later: no rank waits for it,
and neither does a GPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch

from pipeline.cluster import tasks

STOPPED, PREEMPTED = "stopped", "preempted"
_NOTHING, _LOOK, _STOP = 0, 1, 2
_TOLD = b"SIGTERM: saving a checkpoint at the next step; a second one ends at once\n"


class Notice:
    """Called by every rank after every step: whether all are to save and leave now.

    Args:
        rank: of this process; the first one asks for all.
        device: where tensors are reduced.
        stopping: whether the driver got SIGTERM; must not wait. The first rank's alone is used.
        drained: whether a node of the run is to be taken away; all ranks call it together.
        every: seconds between calls of ``drained``.

    Attributes:
        reason: why, once it is so: `STOPPED` or `PREEMPTED`.
    """

    def __init__(
        self,
        *,
        rank: int,
        device: torch.device,
        stopping: Callable[[], bool],
        drained: Callable[[], bool],
        every: float = 5.0,
    ) -> None:
        self._rank, self._device = rank, device
        self._stopping, self._drained, self._every = stopping, drained, every
        self._looked = time.monotonic()
        self._vote_1: torch.Tensor | None = None
        self._reduction: Any = None
        self.reason: str | None = None

    def __call__(self) -> bool:
        """Read what was agreed after the step before, and put the question again."""
        agreed = self._agreed()
        if agreed == _STOP:
            self.reason = STOPPED
        elif agreed == _LOOK and self._drained():
            self.reason = PREEMPTED
        if self.reason is None:
            self._vote_1 = torch.full((1,), self._seen(), device=self._device)
            if torch.distributed.is_initialized():
                self._reduction = torch.distributed.all_reduce(
                    self._vote_1, torch.distributed.ReduceOp.MAX, async_op=True
                )
        return self.reason is not None

    def _agreed(self) -> int:
        if self._vote_1 is None:
            return _NOTHING
        if self._reduction is not None:
            self._reduction.wait()
        return int(self._vote_1.item())

    def _seen(self) -> int:
        if self._rank:
            return _NOTHING
        if self._stopping():
            return _STOP
        now = time.monotonic()
        if now - self._looked < self._every:
            return _NOTHING
        self._looked = now
        return _LOOK


class Question:
    """A yes-or-no question to an actor, put again and again without waiting for the answer.

    Args:
        ask: puts it; returns a Ray reference.
        every: seconds between questions.
    """

    def __init__(self, ask: Callable[[], Any], every: float = 1.0) -> None:
        self._ask, self._every = ask, every
        self._asked, self._reference = float("-inf"), None

    def __call__(self) -> bool:
        """Whether the answer has come and is yes; an actor that is gone says no."""
        if self._reference is None:
            if time.monotonic() - self._asked < self._every:
                return False
            self._asked, self._reference = time.monotonic(), self._ask()
        if not tasks.is_ready(self._reference):
            return False
        answer, self._reference = tasks.answer(self._reference, otherwise=False), None
        return bool(answer)


@contextlib.contextmanager
def heeding_sigterm(act: Callable[[], Any]) -> Iterator[None]:
    """Call ``act`` on the first SIGTERM within the block; a second one does what it did before.

    Does nothing outside the main thread, where Python takes no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        os.write(2, _TOLD)  # print is not for signal handlers
        act()

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
