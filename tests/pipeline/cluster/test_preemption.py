"""A notice: all ranks leave at one step, whoever heard of it, and a signal is heeded once."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from pipeline.cluster import preemption
from tests.support.distributed import run_ranks


def ranks_leave_at(
    rank: int, stop_at: int | None, drained_at: int | None
) -> tuple[int | None, str | None]:
    """(step at which this rank leaves of six, why); the first rank alone knows of the signal."""
    step = 0
    noticed = preemption.Notice(
        rank=rank,
        device=torch.device("cpu"),
        stopping=lambda: rank == 0 and stop_at is not None and step >= stop_at,
        drained=lambda: drained_at is not None and step >= drained_at,
        every=0.0,
    )
    for step in range(1, 7):
        if noticed():
            return step, noticed.reason
    return None, noticed.reason


@pytest.mark.parametrize(
    ("stop_at", "drained_at", "left"),
    [
        (3, None, (4, preemption.STOPPED)),
        (None, 3, (3, preemption.PREEMPTED)),
        (None, None, (None, None)),
    ],
)
def test_all_ranks_leave_at_the_same_step(
    stop_at: int | None, drained_at: int | None, left: tuple[int | None, str | None]
) -> None:
    assert run_ranks(ranks_leave_at, 2, stop_at, drained_at) == [left, left]


def test_one_process_needs_no_process_group() -> None:
    assert ranks_leave_at(0, 1, None) == (2, preemption.STOPPED)


def test_other_ranks_than_the_first_are_not_listened_to() -> None:
    noticed = preemption.Notice(
        rank=1, device=torch.device("cpu"), stopping=lambda: True, drained=lambda: True, every=0.0
    )
    assert not any(noticed() for _ in range(3))


def test_ray_is_asked_no_more_often_than_said() -> None:
    asked: list[float] = []
    noticed = preemption.Notice(
        rank=0,
        device=torch.device("cpu"),
        stopping=lambda: False,
        drained=lambda: bool(asked.append(time.monotonic())),
        every=3600.0,
    )
    assert not any(noticed() for _ in range(100))
    assert asked == []


def test_a_signal_acts_once_and_then_does_what_it_did_before() -> None:
    before, acted = [], []
    saved = signal.signal(signal.SIGTERM, lambda number, frame: before.append(number))
    try:
        with preemption.heeding_sigterm(lambda: acted.append(True)):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, saved)
    assert (len(acted), len(before)) == (1, 2)


def test_a_question_is_not_put_again_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = {"answer 1": False, "answer 2": True}
    monkeypatch.setattr(preemption.tasks, "is_ready", lambda reference: there)
    monkeypatch.setattr(preemption.tasks, "wait_for", answers.__getitem__)

    def ask() -> str:
        asked.append("")
        return f"answer {len(asked)}"

    question, there = preemption.Question(ask, every=0.05), False
    assert not question()
    assert not question()
    assert len(asked) == 1
    there = True
    assert not question()
    time.sleep(0.06)
    assert question()
    assert len(asked) == 2
