"""What a rank does behind an epoch, and what Ray is told of it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cluster.elastic import KEEP_SIZE
from pipeline.cluster.preemption import StopReason
from pipeline.config.train import TrainConfig
from pipeline.training import train, train_loop


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_run_grows_behind_an_epochs_checkpoint_and_not_behind_the_last(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    done: list[str] = []

    def note(what: str) -> Callable[..., Any]:
        return lambda *_, **__: done.append(what)

    for name, what in (("run_epoch", "trained"), ("_report", "saved"), ("_validate", "saved")):
        monkeypatch.setattr(train_loop, name, note(what))
    config = SimpleNamespace(epochs=3, async_validation=asynchronous)
    worker: Any = SimpleNamespace(config=config, epoch=0, unscored=False)

    def fit() -> bool:
        done.append("asked")
        return done.count("asked") == 2

    assert train_loop._run(worker, lambda: False, fit) is StopReason.MORE_WORKERS
    assert done == ["trained", "saved", "asked"] * 2
    worker.epoch = 2
    assert train_loop._run(worker, lambda: False, fit) is None
    assert done[6:] == ["trained", "saved"]


def test_ray_is_told_to_leave_a_healthy_group_as_large_as_it_is() -> None:
    assert trainer().scaling_config.elastic_resize_monitor_interval_s == KEEP_SIZE


def trainer() -> Any:
    """Ray's, of an elastic run."""
    config = TrainConfig(dataset="dataset", workers="1:2", storage="/runs")
    run: Any = SimpleNamespace(config=config, use_gpu=False, cpus=1)
    nothing: Any = None
    return train._trainer(run, "id", nothing, nothing)
