"""The epoch loop: it learns, it reports true averages, it stops on a loss that is not finite."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline import methods
from pipeline.config.sections import OptimizerConfig
from pipeline.data.labels import LabelledSplit
from pipeline.methods.protocol import StepResult
from pipeline.models.cam_net import CamNet
from pipeline.training.loop import EpochHooks, NonFiniteLoss, StepPlan, StepStats, train_epoch
from pipeline.training.step import TrainStep
from sharding.manifest import Dataset
from tests.support.distributed import run_ranks
from tests.support.models import cam_net_of

K = 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network() -> CamNet:
    backbone = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
    )
    return cam_net_of(backbone, 32, K)


def images_of(squares: Path, batch_size: int = 16) -> LabelledSplit:
    options = {"batch_size": batch_size, "image_size": 32, "train": True}
    return LabelledSplit.open(Dataset.open(squares), "train", None, torch.device("cpu"), **options)


def step_of(squares: Path, model: nn.Module, **options: object) -> TrainStep:
    return TrainStep(
        model=model,
        method=methods.create("an", K),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        config=OptimizerConfig(**options),  # type: ignore[arg-type]
    )


def run(squares: Path, epochs: int = 1, **plan: Any) -> list[StepStats]:
    step = step_of(squares, network())
    found: list[StepStats] = []
    for epoch in range(1, epochs + 1):
        step.method.begin_epoch(epoch)
        batches, steps = images_of(squares).epoch(epoch), StepPlan(**{"stats_every": 2, **plan})
        train_epoch(step, batches, steps, EpochHooks(on_stats=found.append))
        step.method.end_epoch()
    return found


def test_it_learns(squares: Path) -> None:
    losses = [stats.loss for stats in run(squares, epochs=12)]
    assert losses[-1] < 0.5 * losses[0]


def test_statistics_cover_every_step_and_image(squares: Path) -> None:
    found = run(squares)
    assert [stats.step for stats in found] == [2, 4, 6]
    assert [stats.images for stats in found] == [32, 64, 96]
    assert all(stats.modified_fraction == 0 for stats in found)
    assert all(0 <= stats.wait_fraction <= 1 for stats in found)


def slow_on(rank: int, slow: int, squares: Path) -> list[StepStats]:
    """An epoch under DDP in which one rank's forward passes take longer."""
    model = network()
    if rank == slow:
        model.backbone.register_forward_hook(lambda *_: time.sleep(0.25))
    step = step_of(squares, nn.parallel.DistributedDataParallel(model))
    found: list[StepStats] = []
    batches = images_of(squares).epoch(1)
    train_epoch(step, batches, StepPlan(stats_every=2), EpochHooks(on_stats=found.append))
    return found


def test_the_rank_that_all_others_wait_for_is_found(squares: Path) -> None:
    first, second = run_ranks(slow_on, 2, 1, squares)
    assert [stats.slowest_rank for stats in first] == [1, 1, 1]
    assert all(1.2 < stats.skew <= 2 for stats in first)
    assert [stats.skew for stats in first] == [stats.skew for stats in second]


def test_one_rank_has_no_skew_and_validation_does_not_count(squares: Path) -> None:
    step = step_of(squares, network())
    batch = next(iter(images_of(squares).epoch(1)))
    step.model.eval()(batch.images_BHWC)
    with torch.no_grad():
        step.model.train()(batch.images_BHWC)
    assert step.timer.read() == 0
    assert [stats.skew for stats in run(squares)] == [1, 1, 1]


def test_an_epoch_can_be_cut_short(squares: Path) -> None:
    assert [stats.step for stats in run(squares, steps=3)] == [2, 3]


def test_the_reported_loss_is_the_methods(squares: Path) -> None:
    (stats, *_) = run(squares, stats_every=1)
    torch.manual_seed(0)
    model, method = network().train(), methods.create("an", K)
    batch = next(images_of(squares).epoch(1))
    with torch.no_grad():
        loss, _ = method.loss(model(batch.images_BHWC), batch.dense())
    assert stats.loss == pytest.approx(loss.item(), rel=1e-6)


def poisoned(model: CamNet, after: int) -> Callable[[StepResult], None]:
    """Spoils a weight after so many steps."""
    count = itertools.count(1)

    def on_step(result: StepResult) -> None:
        if next(count) == after:
            nn.init.constant_(model.head.classifier.weight, float("nan"))

    return on_step


def train_poisoned(squares: Path, after: int, saved: list[int]) -> None:
    """Train an epoch; the steps at which it can be saved go into ``saved``."""
    model = network()
    hooks = EpochHooks(
        on_step=poisoned(model, after), on_pause=lambda position: saved.append(position.step)
    )
    plan = StepPlan(stats_every=6, pause_every=2)
    train_epoch(step_of(squares, model), images_of(squares).epoch(1), plan, hooks)


@pytest.mark.parametrize(
    ("after", "problem", "saved"),
    [
        (1, "the loss is nan at step 2", []),
        (3, "the loss is nan at step 4", [2]),
        (2, "a weight is not finite after step 2", []),
        (4, "a weight is not finite after step 4", [2]),
        (6, "a weight is not finite after step 6", [2, 4]),
    ],
)
def test_what_is_not_finite_stops_training_and_is_not_saved(
    squares: Path, after: int, problem: str, saved: list[int]
) -> None:
    steps: list[int] = []
    with pytest.raises(NonFiniteLoss, match=f"^{problem}$"):
        train_poisoned(squares, after, steps)
    assert steps == saved
