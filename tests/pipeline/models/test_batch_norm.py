"""Batch norm counts batches: nothing of no image, and no variance of a single value."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline.models.batch_norm import of_few_images
from tests.support.training import assert_same_weights


def network() -> nn.Sequential:
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), pool, nn.BatchNorm2d(4))


def test_no_image_leaves_the_running_statistics() -> None:
    model = network()
    before = copy.deepcopy(model)
    with of_few_images(model, 0):
        model(torch.rand(1, 3, 8, 8))
    assert_same_weights(model, before)


def test_one_image_is_counted_where_it_has_several_values() -> None:
    model = network()
    image_BCHW = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match="more than 1 value"):
        network()(image_BCHW)
    with of_few_images(model, 1):
        model(image_BCHW)
    first, last = model[1], model[3]
    assert first.num_batches_tracked == 1
    assert not first.running_mean.equal(torch.zeros(4))
    assert last.num_batches_tracked == 0
    assert last.running_mean.equal(torch.zeros(4))


def test_afterwards_and_for_two_images_nothing_is_changed() -> None:
    model, other = network(), network()
    images_BCHW = torch.rand(2, 3, 8, 8)
    with of_few_images(model, 0):
        pass
    with of_few_images(model, 2):
        assert torch.equal(model(images_BCHW), other(images_BCHW))
    assert torch.equal(model(images_BCHW), other(images_BCHW))
    assert_same_weights(model, other)
    assert all("forward" not in vars(module) for module in model)


class Synchronised(nn.SyncBatchNorm):
    """Records what it would exchange with other ranks, which needs GPUs."""

    def __init__(self) -> None:
        super().__init__(4)
        self.exchanged: list[tuple[torch.Size, torch.dtype]] = []

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        self.exchanged.append((input.shape, input.dtype))
        self.running_var.fill_(float("nan"))  # of a single value over all ranks
        return input * 2


def test_norms_over_all_ranks_join_with_a_count_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    norm = Synchronised()
    x = torch.rand(1, 4, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    with of_few_images(norm, 0):
        y = norm(x)
    assert norm.exchanged == [(torch.Size([0, 4, 2, 2]), torch.float32)]
    torch.testing.assert_close(y, x, rtol=1e-2, atol=0)  # mean 0, variance 1
    assert norm.running_var.equal(torch.ones(4))
    with of_few_images(norm, 1):
        assert norm(torch.ones(1, 4, 1, 1)).eq(2).all()
    assert norm.exchanged[-1][0] == torch.Size([1, 4, 1, 1])
    assert norm.running_var.equal(torch.ones(4))


def test_a_single_rank_has_nobody_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    norm = Synchronised()
    with of_few_images(norm, 1):
        norm(torch.ones(1, 4, 1, 1))
    assert norm.exchanged == []
