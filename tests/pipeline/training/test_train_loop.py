"""What a rank does behind an epoch, a validation task after a failure, a driver without a score."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.cluster.checkpoints import SCORE, UNSCORED
from pipeline.cluster.elastic import KEEP_SIZE
from pipeline.cluster.preemption import StopReason
from pipeline.config.train import TrainConfig
from pipeline.training import train, train_loop
from sharding.errors import InputError


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


@pytest.mark.parametrize(
    ("error", "is_repeated"),
    [
        (OSError("no answer"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (InputError("bad"), False),
    ],
)
def test_a_validation_is_repeated_after_what_may_pass_but_not_at_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, is_repeated: bool
) -> None:
    def fail() -> None:
        raise error

    retries = trainer().validation_config.ray_remote_kwargs
    assert retries["max_retries"] == 3
    assert isinstance(error, tuple(retries["retry_exceptions"])) == is_repeated
    slept: list[float] = []
    monkeypatch.setattr(train_loop.time, "sleep", slept.append)
    options: Any = {"config": None, "run_log": None, "threads": 1, "use_gpu": False}
    with pytest.raises(type(error)):
        train_loop.validate_checkpoint(SimpleNamespace(as_directory=fail), **options)
    assert len(slept) == is_repeated


def test_ray_is_told_to_leave_a_healthy_group_as_large_as_it_is() -> None:
    assert trainer().scaling_config.elastic_resize_monitor_interval_s == KEEP_SIZE


@pytest.mark.parametrize("score", [0.5, UNSCORED])
def test_a_run_one_of_whose_epochs_has_no_score_is_not_finished(
    monkeypatch: pytest.MonkeyPatch, score: float
) -> None:
    listed = {"first": {"epoch": 1.0, SCORE: score}, "last": {"epoch": 2.0, SCORE: 0.4}}
    monkeypatch.setattr(train.checkpoints, "latest", lambda run: "last")
    monkeypatch.setattr(train.checkpoints, "metrics_of", lambda run: listed)
    monkeypatch.setattr(train.checkpoints, "is_whole", lambda directory: True)
    monkeypatch.setattr(train.runs, "is_finished", lambda run_id: True)
    monkeypatch.setattr(train, "_result", lambda best, *_: best)
    meta = SimpleNamespace(step=0, epoch=2, mlflow_run_id="sqlite:///none#7")
    config = SimpleNamespace(epochs=2)
    run: Any = SimpleNamespace(directory="/runs/a", resumed=True, latest=meta, config=config)
    assert train._finished(run) == ("/runs/a/first" if score == 0.5 else None)


def trainer() -> Any:
    """Ray's, of an elastic run."""
    config = TrainConfig(dataset="dataset", workers="1:2", storage="/runs")
    run: Any = SimpleNamespace(config=config, use_gpu=False, cpus=1)
    nothing: Any = None
    return train._trainer(run, "id", nothing, nothing)
