"""Training reports steps to MLflow by images seen, to the terminal by epoch, at its own speed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from types import SimpleNamespace

import pytest

from pipeline.cluster import tasks
from pipeline.cluster.checkpoints import SCORE
from pipeline.config.sections import OptimizerConfig
from pipeline.config.train import TrainConfig
from pipeline.tracking.run_log import ProgressState
from pipeline.training import progress
from pipeline.training.loop import StepStats
from pipeline.training.progress import EpochLines, MetricsLogger
from pipeline.training.state import Rank
from tests.support.training import CPU, Recorder
from tests.support.waiting import wait_until

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
    assert state.note == "loss 0.25, 90 image/s, waits 12% for data"
    assert points.pop("epoch") == 1.5, "half of the second epoch"
    assert state.numbers == {"epoch": 2, "step": 20, **points}
    assert points["workers/images_per_second"] == 90.0
    assert points["workers/wait_fraction_slowest_rank"] == 0.125


def test_a_slow_rank_is_named_where_it_is_more_than_chance() -> None:
    points, (state,) = sent_by(0, dataclasses.replace(STATS, skew=1.31))
    assert state.note.endswith("for data, rank 3 31% slower than the mean")
    assert (points["workers/slowest_rank"], points["workers/forward_skew"]) == (3, 1.31)


def test_other_ranks_say_nothing() -> None:
    assert sent_by(1) == ({}, [])


def test_an_epoch_that_goes_on_in_the_middle_has_its_own_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [ProgressState("epoch 2/3", step, 10_000) for step in (5000, 5010, 5020)]
    looks = itertools.chain([None], states, itertools.repeat(states[-1]))
    looked: list[object] = []
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(tasks, "answer", lambda reference, otherwise: next(looks))
    with progress.shown(SimpleNamespace(state=lambda: looked.append(None))):
        wait_until(lambda: len(looked) > 4)
    (line,) = capsys.readouterr().err.splitlines()
    speed = re.fullmatch(r"epoch 2/3: 5020/10000 step, (.*) step/s, (\d+) s left", line)
    assert speed, line
    assert 0.1 < float(speed[1]) < 250  # looks are a twentieth of a second apart
    assert int(speed[2]) > 4980 / 250


def test_the_line_of_an_epoch_does_not_end_the_progress_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[int] = []

    class Bar:
        label, done, is_open = "epoch 2/2", 0, False

        def __init__(self, total: int, label: str, unit: str, *, initial: int, leave: bool) -> None:
            opened.append(initial)

        def __enter__(self) -> Bar:
            self.is_open = True
            return self

        def __exit__(self, *_: object) -> None:
            self.is_open = False

        def advance(self, *_: object) -> None:
            assert self.is_open

    steps, scores = iter(range(10, 1000)), iter([{}, {1: SCORED}])
    looked: list[object] = []
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(progress, "Progress", Bar)
    monkeypatch.setattr(tasks, "answer", lambda reference, otherwise: reference)
    run_log = SimpleNamespace(
        state=lambda: ProgressState("epoch 2/2", next(steps), 1000),
        epochs=lambda: looked.append(None) or next(scores, {1: SCORED}),
    )
    with progress.shown(run_log, EpochLines(2)):
        wait_until(lambda: len(looked) > 3)
    assert opened == [10, 11]


def test_a_validation_that_was_shown_is_not_shown_again_behind_its_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked: list[object] = []
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(tasks, "answer", lambda reference, otherwise: reference)
    run_log = SimpleNamespace(
        state=lambda: ProgressState("validate 1/2", 6, 6),
        epochs=lambda: looked.append(None) or ({1: SCORED} if len(looked) > 2 else {}),
    )
    with progress.shown(run_log, EpochLines(2)):
        wait_until(lambda: len(looked) > 5)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "validate 1/2: 6/6 step"
    assert second.startswith("epoch 1/2: ")


SCORED = {SCORE: 0.7064, progress.MAP: 0.7064, progress.MAP_OFF: 0.68694, "epoch": 3.0}


def test_an_epoch_is_a_line_that_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 5000.0))
    lines = EpochLines(10, best=0.71018)
    lines._began = lines._last = 5000.0 - 4350
    lines.show({2: {"train/loss": 0.3}, 3: {**SCORED, "train/loss": 0.12345}})
    lines.show({3: {**SCORED, "train/loss": 0.12345}})
    (line,) = capsys.readouterr().err.splitlines()
    begin, end = (
        "epoch 3/10: loss 0.123, mAP 70.64 (off 68.69), best 71.02, 1:12:30",
        "8:27:30 left",
    )
    assert line == f"{begin}, {end}"


def test_the_first_epochs_have_no_best_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 5000.0))
    lines = EpochLines(2)
    lines.show({})
    lines.show({1: SCORED})
    lines.show({2: {SCORE: 2.0, "train/loss": 0.5}})
    first, second = capsys.readouterr().err.splitlines()
    assert first == "epoch 1/2: mAP 70.64 (off 68.69), best 70.64, 0:00, 0:00 left"
    assert second == "epoch 2/2: loss 0.5, 0:00", "there is no validation split"


def test_programs_read_all_metrics(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENIMAGES_LOG", "json")
    EpochLines(10).show({3: {**SCORED, "train/loss": 0.25}})
    line = json.loads(capsys.readouterr().err)
    assert {**SCORED, "train/loss": 0.25, "best": 0.7064}.items() <= line.items()


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps() -> None:
    run_log = Recorder()
    logger = MetricsLogger(TrainConfig(dataset="d"), Rank(device=CPU, threads=1), run_log)
    for epoch, step, loss in ((1, 10, 9.0), (2, 10, 1.0), (2, 40, 2.0)):
        stats = dataclasses.replace(STATS, step=step, loss=loss)
        logger.step(stats, epoch=epoch, steps=40, rate=0.1, images_seen=step)
    assert run_log.calls["epoch"][-1] == (2, {"train/loss": 1.75})
