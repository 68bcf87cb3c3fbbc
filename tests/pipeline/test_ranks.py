"""A rank whose process group is shut down does not go on as if it were alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from pipeline import ranks
from pipeline.config.train import TrainConfig
from pipeline.methods.parts.collectives import Collectives
from pipeline.ranks import GroupEnded, expect, has_group
from pipeline.training import loop, train_loop
from pipeline.training.failures import Cause
from tests.support.distributed import run_ranks


def test_one_process_needs_no_group() -> None:
    assert not has_group()
    assert Collectives().world_size == 1


def alone_again(rank: int) -> bool:
    """Whether a process that declared no ranks has a group after it had one."""
    dist.barrier()
    dist.destroy_process_group()
    return has_group()


def test_a_group_of_former_work_is_not_missed() -> None:
    assert run_ranks(alone_again, 1) == [False]


def shut_down(rank: int) -> list[str]:
    """What each use of the group says after Ray has destroyed it in another thread."""
    expect(2)
    assert has_group()
    assert Collectives().world_size == 2
    dist.barrier()
    dist.destroy_process_group()
    said = []
    for use in (
        has_group,
        lambda: Collectives().world_size,
        lambda: loop._of_all_ranks([1.0], torch.device("cpu")),
        dist.get_world_size,  # between the look and the use
    ):
        with pytest.raises((GroupEnded, ValueError)) as raised:
            use()
        said.append(f"{type(raised.value).__name__} {Cause.of(raised.value).name}")
    return said


def test_a_group_that_is_shut_down_ends_the_step() -> None:
    ended = "GroupEnded PEER"
    for said in run_ranks(shut_down, 2):
        assert said[:3] == [ended] * 3
        assert said[-1] == "ValueError PEER"


def test_a_worker_declares_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of its training runs, so that no step can take itself for the whole."""
    monkeypatch.setattr(ranks, "_ranks", 1)  # put back afterwards
    context = SimpleNamespace(get_world_size=lambda: 2, get_world_rank=lambda: 0)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(train_loop, "open_cached", lambda config: None)
    monkeypatch.setattr(train_loop, "Worker", lambda **_: has_group())
    settings = {
        "config": TrainConfig(dataset="dataset").to_dict(),
        "lease": SimpleNamespace(check=lambda: None),
        "threads": torch.get_num_threads(),
        "run_log": None,
        "run_id": "0",
    }
    with pytest.raises(GroupEnded):
        train_loop._begin(settings)
