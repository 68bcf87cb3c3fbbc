"""Training reports steps to MLflow by images seen, to the terminal by epoch, at its own speed."""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from types import SimpleNamespace

import pytest

from pipeline.cluster import tasks
from pipeline.config.sections import OptimizerConfig
from pipeline.config.train import TrainConfig
from pipeline.tracking.run_log import ProgressState
from pipeline.training import progress
from pipeline.training.loop import StepStats
from pipeline.training.progress import MetricsLogger
from pipeline.training.state import Rank
from tests.support.training import CPU, Recorder

STATS = StepStats(
    step=20,
    images=640,
    loss=0.25,
    modified_fraction=0.01,
    images_per_second=90.0,
    wait_fraction=0.05,
    worst_wait_fraction=0.125,
    slowest_rank=3,
    skew=1.04,
)


def sent_by(rank: int, stats: StepStats = STATS) -> tuple[dict[str, float], list[ProgressState]]:
    """The points of step 1,920 by name, and the states, that a rank sends."""
    run_log = Recorder()
    config = TrainConfig(dataset="d", optimizer=OptimizerConfig(epochs=3))
    logger = MetricsLogger(config, Rank(device=CPU, threads=1, number=rank), run_log)
    logger.step(stats, epoch=2, steps=40, rate=0.1, images_seen=1920)
    points = [point for points, _ in run_log.calls["log"] for point in points]
    assert {images_seen for _, _, images_seen in points} <= {1920}
    return {key: value for key, value, _ in points}, [s for (s,) in run_log.calls["progress"]]


def test_a_step_for_programs_and_for_people() -> None:
    points, (state,) = sent_by(0)
    assert (state.label, state.step, state.steps) == ("epoch 2/3", 20, 40)
    assert state.note == "loss 0.2500, 90 image/s, 12% waiting for data"
    assert state.numbers == {"epoch": 2, "step": 20, **points}
    assert points["train/images_per_second"] == 90.0
    assert points["data/wait_fraction_slowest_rank"] == 0.125


def test_a_slow_rank_is_named_where_it_is_more_than_chance() -> None:
    points, (state,) = sent_by(0, dataclasses.replace(STATS, skew=1.31))
    assert state.note.endswith("waiting for data, rank 3 31% slower than the mean")
    assert (points["train/slowest_rank"], points["train/forward_skew"]) == (3, 1.31)


def test_other_ranks_say_nothing() -> None:
    assert sent_by(1) == ({}, [])


def test_an_epoch_that_goes_on_in_the_middle_has_its_own_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [ProgressState("epoch 2/3", step, 10_000) for step in (5000, 5010, 5020)]
    looks = itertools.chain([None], states, itertools.repeat(states[-1]))
    monkeypatch.setattr(tasks, "answer", lambda reference, otherwise: next(looks))
    with progress.shown(SimpleNamespace(state=lambda: None)):
        time.sleep(2.6)
    (line,) = capsys.readouterr().err.splitlines()
    speed = re.fullmatch(r"epoch 2/3: 5020/10000 step, (.*) step/s, (\d+) s left", line)
    assert speed, line
    assert 1 < float(speed[1]) < 25  # looks are half a second apart
    assert int(speed[2]) > 4980 / 25
