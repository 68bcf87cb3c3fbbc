"""A step is what its options say: micro-batches exact, averages right, progress a pure function."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.config.sections import ModelConfig, OptimizerConfig
from pipeline.data.labels import LabelJoin, LabelledBatch
from pipeline.data.loader import Batch
from pipeline.methods import Phase
from pipeline.models import cam_net
from pipeline.training.step import TrainStep, learning_rate_factor, moving_average
from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.support.training import assert_same_weights

K = 8


@pytest.fixture(scope="module")
def network() -> cam_net.CamNet:
    torch.manual_seed(0)
    return cam_net.build(ModelConfig(backbone="resnet18"), K)


@pytest.fixture(scope="module")
def join(squares: Path) -> LabelJoin:
    table = Dataset.open(squares).labels("train")
    return LabelJoin(table=table, num_classes=K)


def batch_of(join: LabelJoin, size: int) -> LabelledBatch:
    rng = np.random.default_rng(size)
    images = rng.integers(0, 255, (size, 64, 64, 3), dtype=np.uint8)
    images_BHWC = torch.from_numpy(images)
    return join(Batch(images_BHWC=images_BHWC, image_ids_B=join.table.image_ids_N[:size]))


def step_of(network: cam_net.CamNet, **options: object) -> TrainStep:
    model = copy.deepcopy(network).train()
    method = methods.create("ll-ct", K, delta_rel=5.0)
    method.begin_epoch(3)
    config = OptimizerConfig(**options)  # type: ignore[arg-type]
    return TrainStep(
        model=model,
        method=method,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        config=config,
        averaged=moving_average(model, config.ema_decay),
    )


def frozen_norms(step: TrainStep) -> TrainStep:
    # Batch norm sees micro-batches, as everywhere; without it nothing depends on the split.
    for module in step.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return step


@pytest.mark.parametrize("parts", [2, 3, 7, 16])
def test_micro_batches_give_the_step_of_the_whole_batch(
    network: cam_net.CamNet, join: LabelJoin, parts: int
) -> None:
    whole = frozen_norms(step_of(network))
    split = frozen_norms(step_of(network, micro_batches=parts))
    batch = batch_of(join, 13)
    expected, found = whole(batch), split(batch)
    assert expected.modified_BK.any()
    assert torch.equal(found.modified_BK, expected.modified_BK)
    torch.testing.assert_close(found.loss, expected.loss)
    for ours, theirs in zip(split.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_micro_batches_are_run_again_with_the_same_random_numbers(
    network: cam_net.CamNet, join: LabelJoin
) -> None:
    """The gradient of a loss belongs to the masks of dropout that the loss was computed with."""
    step = frozen_norms(step_of(network, micro_batches=3))
    step.model.dropout = torch.nn.Dropout2d(0.5)
    seen: list[torch.Tensor] = []
    step.model.register_forward_hook(lambda _, __, logits_BK: seen.append(logits_BK.detach()))
    step(batch_of(join, 12))
    first, second = seen[:3], seen[3:]
    assert len(second) == 3
    for scored, trained in zip(first, second, strict=True):
        assert torch.equal(scored, trained)
    assert not torch.equal(first[0], first[1])
    step(batch_of(join, 12))
    assert not torch.equal(seen[6], seen[0])  # the next step draws anew


def test_adam_begins_anew_where_a_frozen_backbone_thaws(
    network: cam_net.CamNet, join: LabelJoin
) -> None:
    model = copy.deepcopy(network).train()
    groups = cam_net.parameter_groups(model, 1e-3, 1.0)
    step = TrainStep(
        model=model,
        method=methods.create("an", K),
        optimizer=torch.optim.Adam(groups, weight_decay=0.1),
        config=OptimizerConfig(),
    )
    step.enter(Phase(backbone_frozen=True))
    before = copy.deepcopy(model)
    for _ in range(3):
        step(batch_of(join, 8))
    assert_same_weights(model.backbone, before.backbone)
    assert not torch.equal(model.head.classifier.weight, before.head.classifier.weight)
    step.enter(Phase())
    step(batch_of(join, 8))
    counts = {float(step.optimizer.state[p]["step"]) for p in groups[0]["params"]}
    assert counts == {1.0}
    assert {float(step.optimizer.state[p]["step"]) for p in groups[1]["params"]} == {4.0}


def test_micro_batches_count_statistics_once(network: cam_net.CamNet, join: LabelJoin) -> None:
    split = step_of(network, micro_batches=2)
    norm = split.model.backbone[1]
    split(batch_of(join, 8))
    part = torch.nn.BatchNorm2d(norm.num_features)
    part.train()
    images = split.model.backbone[0]
    assert norm.momentum == part.momentum
    assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))
    # Two updates of momentum 0.1 keep 0.81 of the initial variance of 1; four would keep 0.66.
    fresh = copy.deepcopy(network).train()
    batch = batch_of(join, 8)
    for begin in (0, 4):
        fresh(batch.images_BHWC[begin : begin + 4])
    torch.testing.assert_close(fresh.backbone[1].running_var, norm.running_var)
    assert images.weight.shape[0] == norm.num_features


def test_an_empty_share_of_a_batch_changes_nothing(
    network: cam_net.CamNet, join: LabelJoin
) -> None:
    for parts in (1, 3):
        step = step_of(network, micro_batches=parts)
        before = copy.deepcopy(step.model)
        result = step(batch_of(join, 0))
        assert result.loss == 0
        assert result.modified_BK.shape == (0, K)
        assert_same_weights(step.model, before)  # running statistics too


def test_micro_batches_without_images_change_nothing(
    network: cam_net.CamNet, join: LabelJoin
) -> None:
    batch = batch_of(join, 8)
    whole, split = (step_of(network, micro_batches=parts) for parts in (4, 5))
    whole(batch)
    split(batch)  # 2, 2, 2, 2 and 0 images
    assert_same_weights(split.model, whole.model)


def test_a_single_image_trains(network: cam_net.CamNet, join: LabelJoin) -> None:
    step = step_of(network)
    batch = batch_of(join, 1)
    one = join(
        Batch(images_BHWC=batch.images_BHWC[:, :32, :32], image_ids_B=batch.image_ids_B)
    )  # its last features are 1 x 1
    before = copy.deepcopy(step.model)
    assert step(one).loss.isfinite()
    assert not torch.equal(step.model.backbone[0].weight, before.backbone[0].weight)
    assert all(tensor.isfinite().all() for tensor in step.model.state_dict().values())


def test_clipping_bounds_the_update(network: cam_net.CamNet, join: LabelJoin) -> None:
    step = step_of(network, clip_norm=1e-3)
    before = torch.cat([p.detach().flatten().clone() for p in step.model.parameters()])
    step(batch_of(join, 8))
    after = torch.cat([p.detach().flatten() for p in step.model.parameters()])
    assert (after - before).norm() <= 0.1 * 1e-3 * 1.001


def test_bf16_computes_the_loss_in_fp32(network: cam_net.CamNet, join: LabelJoin) -> None:
    batch = batch_of(join, 8)
    exact, mixed = step_of(network)(batch), step_of(network, precision="bf16")(batch)
    assert mixed.logits_BK.dtype == mixed.loss.dtype == torch.float32
    assert not torch.equal(mixed.logits_BK, exact.logits_BK)
    torch.testing.assert_close(mixed.loss, exact.loss, rtol=0.05, atol=0)


def test_the_moving_average_follows_and_is_restored(
    network: cam_net.CamNet, join: LabelJoin
) -> None:
    step = step_of(network, ema_decay=0.5)
    name = "head.classifier.weight"
    for size in (4, 6):
        expected = step.averaged.module.state_dict()[name].clone()
        step(batch_of(join, size))
    # The first update copies; from then on it is the mean of average and weights.
    expected = 0.5 * expected + 0.5 * step.model.state_dict()[name]
    torch.testing.assert_close(step.averaged.module.state_dict()[name], expected)
    other = step_of(network, ema_decay=0.5)
    other.load_state_dict(step.state_dict())
    found = other.averaged.module.state_dict()[name]
    assert torch.equal(found, step.averaged.module.state_dict()[name])
    assert step_of(network).averaged is None


def test_the_schedule_sets_every_groups_rate(network: cam_net.CamNet, join: LabelJoin) -> None:
    step = step_of(network, schedule="cosine")
    step(batch_of(join, 4), progress=0.5)
    assert step.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    step(batch_of(join, 4), progress=0.0)
    assert step.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_one_cycle_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    steps = 101
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=0.2)
    peak = 0.2 * steps - 1
    for number in range(steps):
        # torch puts the peak on step 0.2 * steps - 1 of steps - 1.
        ours = learning_rate_factor(number / (steps - 1), "one-cycle", peak / (steps - 1))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        if number < steps - 1:
            cycle.step()


def test_warmup_rises_to_the_base_rate() -> None:
    assert learning_rate_factor(0.0, "constant", 0.1) == 0
    assert learning_rate_factor(0.05, "constant", 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(0.1, "constant", 0.1) == 1
    assert learning_rate_factor(1.0, "cosine") == pytest.approx(0)


@pytest.mark.parametrize("wrong", [{"warmup": 1.0}, {"micro_batches": 0}, {"ema_decay": 1.0}])
def test_impossible_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        OptimizerConfig(**wrong)  # type: ignore[arg-type]
