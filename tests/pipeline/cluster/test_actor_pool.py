"""Items are given to a pool of actors; what dies is replaced, what fails is raised."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pipeline.cluster import tasks
from sharding.errors import InputError

pytestmark = pytest.mark.ray


class Worker:
    """Adds a number; so many workers die of the items from ``bad`` on, one after the other."""

    def __init__(self, number: int, deaths: int = 0, bad: int = 2) -> None:
        if number < 0:
            raise InputError("a negative number", fix="pass 0 or more")
        self.number, self.deaths, self.bad = number, deaths, bad

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        if row["item"] >= self.bad and row["attempt"] <= self.deaths:
            os._exit(1)
        return {"sum": row["item"] + self.number, "attempt": row["attempt"]}


def lost(item: int, reason: str) -> dict[str, str]:
    return {"lost": f"{item}: {reason}"}


HOW: dict[str, Any] = {"workers": 2, "num_cpus": 1, "label": "add", "set_aside": lost}


def test_a_pool_does_every_item_though_an_actor_dies(
    ray_local: None, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = {"number": 10, "deaths": 1, "bad": 4}
    rows = list(tasks.map_parts(Worker, arguments, range(5), **HOW))
    assert sorted(row["sum"] for row in rows) == [10, 11, 12, 13, 14]
    assert sorted(row["attempt"] for row in rows) == [1, 1, 1, 1, 2]
    assert "core_worker.cc" not in capfd.readouterr().err


def test_an_item_that_actors_die_of_is_set_aside_and_the_others_are_done(ray_local: None) -> None:
    arguments = {"number": 10, "deaths": 9, "bad": 4}
    rows = list(tasks.map_parts(Worker, arguments, [4, 0, 1], **HOW))
    assert sorted(row["sum"] for row in rows if "sum" in row) == [10, 11]
    (reason,) = (row["lost"] for row in rows if "lost" in row)
    assert reason.startswith("4: 3 workers died of it: "), reason
    # Ray waits a second to be told why; afterwards the actor is out of reach.
    assert "Worker unexpectedly exits" in reason or "is unavailable" in reason, reason


def test_actors_that_all_die_end_the_job(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_MOST_LOST", 2)
    arguments = {"number": 10, "deaths": 9, "bad": 0}
    with pytest.raises(InputError, match=r"^6 workers died and none did its work: .*Fix: give"):
        list(tasks.map_parts(Worker, arguments, range(9), **HOW))


def test_an_error_of_the_constructor_is_the_callers(ray_local: None) -> None:
    with pytest.raises(InputError, match="negative number"):
        list(tasks.map_parts(Worker, {"number": -1}, [1], **HOW))
