"""Tasks run in parallel, as many as the cluster holds while it grows."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipeline.cluster import tasks


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """In the place of Ray: no CPU at first, two after the first result; tasks in flight at each."""
    in_flight: list[int] = []
    cpus = itertools.chain([0], itertools.repeat(2))

    def wait(running: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        in_flight.append(len(running))
        return running[:1], running[1:]

    def remote(function: Callable[..., Any]) -> Any:
        handle = SimpleNamespace(remote=lambda *arguments: function(*arguments))
        return SimpleNamespace(options=lambda **options: handle)

    fake = SimpleNamespace(
        cluster_resources=lambda: {"CPU": next(cpus)},
        wait=wait,
        get=lambda x: x,
        remote=remote,
        exceptions=ray.exceptions,
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    return in_flight


def test_more_tasks_wait_when_nodes_have_joined(growing: list[int]) -> None:
    assert list(tasks.run_tasks(lambda item: 2 * item, range(8))) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert growing == [2, 4, 4, 4, 4, 3, 2, 1]


def test_a_bound_of_the_caller_stays(growing: list[int]) -> None:
    list(tasks.run_tasks(str, range(4), max_in_flight=1))
    assert max(growing) == 1


@pytest.mark.parametrize(
    "death", [ray.exceptions.LocalRayletDiedError(), ray.exceptions.WorkerCrashedError()]
)
def test_a_death_of_ray_is_one_line_that_says_repeat(
    death: Exception, growing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(_: object) -> None:
        raise death

    monkeypatch.setattr(sys.modules["ray"], "get", get)
    with pytest.raises(tasks.RayDied, match=r"^Ray ended the work: .*repeat the command") as error:
        list(tasks.run_tasks(str, range(2)))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == os.EX_TEMPFAIL
