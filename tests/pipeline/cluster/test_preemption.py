"""All ranks stop at one step, whichever was asked, and a signal acts once."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from pipeline.cluster import preemption
from pipeline.cluster.preemption import StopReason
from tests.support.distributed import run_ranks


def ranks_stop_at(
    rank: int, stop_at: int | None, drained_at: int | None
) -> tuple[int | None, StopReason | None]:
    """(step at which this rank stops of six, why); the first rank alone knows of the signal."""
    step = 0
    vote = preemption.StopVote(
        rank=rank,
        device=torch.device("cpu"),
        stop_requested=lambda: rank == 0 and stop_at is not None and step >= stop_at,
        node_drained=lambda: drained_at is not None and step >= drained_at,
        every=0.0,
    )
    for step in range(1, 7):
        if vote():
            return step, vote.reason
    return None, vote.reason


@pytest.mark.parametrize(
    ("stop_at", "drained_at", "stopped"),
    [
        (3, None, (4, StopReason.SIGTERM)),
        (None, 3, (3, StopReason.NODE_DRAINED)),
        (None, None, (None, None)),
    ],
)
def test_all_ranks_stop_at_the_same_step(
    stop_at: int | None, drained_at: int | None, stopped: tuple[int | None, StopReason | None]
) -> None:
    assert run_ranks(ranks_stop_at, 2, stop_at, drained_at) == [stopped, stopped]


def test_one_process_needs_no_process_group() -> None:
    assert ranks_stop_at(0, 1, None) == (2, StopReason.SIGTERM)


def test_only_the_first_rank_is_listened_to() -> None:
    vote = preemption.StopVote(
        rank=1,
        device=torch.device("cpu"),
        stop_requested=lambda: True,
        node_drained=lambda: True,
        every=0.0,
    )
    assert not any(vote() for _ in range(3))


def test_ray_is_asked_no_more_often_than_said() -> None:
    asked: list[float] = []
    vote = preemption.StopVote(
        rank=0,
        device=torch.device("cpu"),
        stop_requested=lambda: False,
        node_drained=lambda: bool(asked.append(time.monotonic())),
        every=3600.0,
    )
    assert not any(vote() for _ in range(100))
    assert asked == []


def test_a_signal_acts_once_and_then_does_what_it_did_before() -> None:
    before, acted = [], []
    saved = signal.signal(signal.SIGTERM, lambda number, frame: before.append(number))
    try:
        with preemption.on_sigterm(lambda: acted.append(True)):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, saved)
    assert (len(acted), len(before)) == (1, 2)


def test_an_actor_is_not_asked_again_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = {"answer 1": False, "answer 2": True}
    monkeypatch.setattr(preemption.tasks, "is_ready", lambda reference: there)
    monkeypatch.setattr(preemption.tasks, "answer", lambda asked, otherwise: answers[asked])

    def ask() -> str:
        asked.append("")
        return f"answer {len(asked)}"

    poll, there = preemption.Poll(ask, every=0.05), False
    assert not poll()
    assert not poll()
    assert len(asked) == 1
    there = True
    assert not poll()
    time.sleep(0.06)
    assert poll()
    assert len(asked) == 2
