"""A rank whose process group is shut down does not go on as if it were alone."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pipeline.methods.parts.collectives import Collectives
from pipeline.ranks import GroupEnded, has_group
from pipeline.training import loop
from pipeline.training.failures import Cause
from tests.support.distributed import run_ranks


def test_one_process_needs_no_group() -> None:
    assert not has_group()
    assert Collectives().world_size == 1


def shut_down(rank: int) -> list[str]:
    """What each use of the group says after Ray has destroyed it in another thread."""
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
