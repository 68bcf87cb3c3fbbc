"""What limits a rank is found from the rates of its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.training.epoch import enter
from pipeline.training.timing import Headspace, headspace
from tests.support.training import begun, worker_for


@pytest.mark.parametrize(
    ("rates", "limit"),
    [
        ({"network": 100}, "network"),
        ({"network": 1000}, "decode"),
        ({"network": 1000, "read": 310}, "read"),
        ({"network": 1000, "read": 350, "copy": 320}, "copy"),
    ],
)
def test_the_slowest_part_is_named_with_what_helps(rates: dict[str, float], limit: str) -> None:
    found = Headspace(**{"loader": 300, "read": 9000, "copy": 9000, "both": 90, **rates})
    assert found.bottleneck == limit
    assert found.text().splitlines()[-1].startswith(f"limit    {limit}: ")


def test_the_share_lost_to_the_loader_is_that_of_the_ceiling() -> None:
    found = Headspace(network=200, loader=150, read=900, copy=900, both=140)
    assert found.lost == pytest.approx(0.3)
    assert "30% of the ceiling is lost to the loader" in found.text()


def test_a_rank_is_measured_in_memory_alone(squares: Path) -> None:
    worker = begun(worker_for(squares, "ll-r"))
    enter(worker, 1)
    found = headspace(worker.step, worker.images, seconds=0.2)
    assert min(vars(found).values()) > 0
