"""What training tells of a step: to MLflow by images seen, to the terminal by epoch and step."""

from __future__ import annotations

import dataclasses

import torch

from pipeline.config.sections import OptimizerConfig
from pipeline.config.train import TrainConfig
from pipeline.tracking.run_log import ProgressState
from pipeline.training.loop import StepStats
from pipeline.training.progress import MetricsLogger


class Told:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []
        self.states: list[ProgressState] = []

    def log(self, points: list[tuple[str, float, int]], sender: str) -> None:
        self.points += points

    def progress(self, state: ProgressState) -> None:
        self.states.append(state)


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


def told_by(rank: int, stats: StepStats = STATS) -> Told:
    told = Told()
    config = TrainConfig(dataset="d", optimizer=OptimizerConfig(epochs=3))
    teller = MetricsLogger(config, rank, told, torch.device("cpu"))
    teller.step(stats, epoch=2, steps=40, rate=0.1, images_seen=1920)
    return told


def test_a_step_for_programs_and_for_people() -> None:
    told = told_by(rank=0)
    (state,) = told.states
    assert (state.label, state.step, state.steps) == ("epoch 2/3", 20, 40)
    assert state.note == "loss 0.2500, 90 image/s, 12% waiting for data"
    numbers = dict(state.numbers)
    assert (numbers.pop("epoch"), numbers.pop("step")) == (2, 20)
    assert numbers == {key: value for key, value, _ in told.points}
    assert numbers["train/images_per_second"] == 90.0
    assert numbers["data/wait_fraction_slowest_rank"] == 0.125
    assert {images_seen for _, _, images_seen in told.points} == {1920}


def test_a_slow_rank_is_named_where_it_is_more_than_chance() -> None:
    told = told_by(rank=0, stats=dataclasses.replace(STATS, skew=1.31))
    assert told.states[0].note.endswith("waiting for data, rank 3 31% slower than the mean")
    points = {key: value for key, value, _ in told.points}
    assert (points["train/slowest_rank"], points["train/forward_skew"]) == (3, 1.31)


def test_other_ranks_say_nothing() -> None:
    told = told_by(rank=1)
    assert (told.points, told.states) == ([], [])
