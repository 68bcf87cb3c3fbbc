"""Items are given to a pool of actors; what dies is replaced, what fails is raised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.cluster import tasks
from sharding.errors import InputError

pytestmark = pytest.mark.ray


class Worker:
    """Adds a number; the first to see item 2 dies with its process."""

    def __init__(self, number: int, died: str = "") -> None:
        if number < 0:
            raise InputError("a negative number", fix="pass 0 or more")
        self.number, self.died = number, Path(died)

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        if row["item"] == 2 and not self.died.exists():
            self.died.touch()
            os._exit(1)
        return {"sum": row["item"] + self.number}


def test_a_pool_does_every_item_though_an_actor_dies(
    ray_local: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    how = {"workers": 2, "num_cpus": 1, "num_gpus": 0, "label": "add"}
    arguments = {"number": 10, "died": str(tmp_path / "died")}
    rows = tasks.map_parts(Worker, arguments, range(5), **how)
    assert sorted(row["sum"] for row in rows) == [10, 11, 12, 13, 14]
    assert "core_worker.cc" not in capfd.readouterr().err


def test_an_error_of_the_constructor_is_the_callers(ray_local: None) -> None:
    how = {"workers": 1, "num_cpus": 1, "num_gpus": 0, "label": "add"}
    with pytest.raises(InputError, match="negative number"):
        list(tasks.map_parts(Worker, {"number": -1}, [1], **how))
