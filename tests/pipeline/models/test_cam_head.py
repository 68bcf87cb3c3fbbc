"""The CAM head equals the paper's code, in every form it is evaluated in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.cam_head import CamHead, boostlu


def head_of(golden: Any, alpha: float) -> CamHead:
    head = CamHead(6, 5, alpha_train=alpha, alpha_infer=alpha)
    head.load_state_dict(
        {
            "classifier.weight": torch.from_numpy(golden["boost_weight"])[:, :, None, None],
            "classifier.bias": torch.from_numpy(golden["boost_bias"]),
        }
    )
    return head


@pytest.mark.shared
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_the_reference(shared: Path, layout: torch.memory_format) -> None:
    golden = np.load(shared / "golden" / "boostlu_head.npz")
    for i, alpha in enumerate(golden["boost_alphas"]):
        head = head_of(golden, float(alpha))
        features_BDHW = torch.from_numpy(golden["boost_feat"]).contiguous(memory_format=layout)
        features_BDHW.requires_grad_()
        logits_BK = head(features_BDHW)
        logits_BK.backward(torch.from_numpy(golden["boost_upstream"]))
        weight, bias = head.classifier.weight.grad, head.classifier.bias.grad
        pairs = [
            (logits_BK.detach(), golden["boost_logits"][i]),
            (head.cam(features_BDHW).detach(), golden["boost_cam_with_bias"]),
            (features_BDHW.grad, golden["boost_grad_feat"][i]),
            (weight.flatten(1), golden["boost_grad_weight"][i]),
            (bias, golden["boost_grad_bias"][i]),
        ]
        for found, expected in pairs:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.shared
def test_alpha_one_equals_the_linear_head_of_the_reference(shared: Path) -> None:
    golden = np.load(shared / "golden" / "boostlu_head.npz")
    logits_BK = head_of(golden, 1.0)(torch.from_numpy(golden["boost_feat"])).detach()
    np.testing.assert_allclose(logits_BK, golden["boost_linear_head_logits"], rtol=1e-4, atol=1e-6)


def make(alpha_train: float = 2.0, bias: bool = True) -> tuple[CamHead, torch.Tensor]:
    torch.manual_seed(0)
    head = CamHead(8, 11, alpha_train=alpha_train, alpha_infer=5.0, bias=bias)
    return head, torch.randn(3, 8, 4, 5).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bias", [True, False])
def test_alpha_follows_the_mode(bias: bool) -> None:
    head, features_BDHW = make(bias=bias)
    cam_BKHW = head.cam(features_BDHW)
    torch.testing.assert_close(head(features_BDHW), boostlu(cam_BKHW, 2.0).mean((2, 3)))
    head.eval()
    torch.testing.assert_close(head(features_BDHW), boostlu(cam_BKHW, 5.0).mean((2, 3)))


def test_alpha_one_is_pooling_and_a_linear_classifier() -> None:
    head, features_BDHW = make(alpha_train=1.0)
    weight_KD = head.classifier.weight.flatten(1)
    expected_BK = features_BDHW.mean((2, 3)) @ weight_KD.T + head.classifier.bias
    torch.testing.assert_close(head(features_BDHW), expected_BK)


@pytest.mark.parametrize("bias", [True, False])
def test_scores_of_pairs_are_entries_of_both(bias: bool) -> None:
    head, features_BDHW = make(bias=bias)
    raw_BK, boosted_BK = head.both(features_BDHW)
    rows_E, classes_E = torch.tensor([2, 0, 0, 1, 2]), torch.tensor([10, 3, 3, 0, 1])
    raw_E, boosted_E = head.pair_scores(features_BDHW, rows_E, classes_E)
    torch.testing.assert_close(raw_E, raw_BK[rows_E, classes_E])
    torch.testing.assert_close(boosted_E, boosted_BK[rows_E, classes_E])
    torch.testing.assert_close(boosted_BK, head.eval()(features_BDHW))


def test_no_pairs_no_scores() -> None:
    head, features_BDHW = make()
    none = torch.zeros(0, dtype=torch.int64)
    assert [len(scores_E) for scores_E in head.pair_scores(features_BDHW, none, none)] == [0, 0]


def test_boostlu_below_one_is_not_a_maximum() -> None:
    x = torch.tensor([-2.0, 0.0, 2.0], requires_grad=True)
    y = boostlu(x, 0.5)
    y.sum().backward()
    assert y.tolist() == [-2.0, 0.0, 1.0]
    assert x.grad.tolist() == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("num_classes", [1, 512, 1100])
@pytest.mark.parametrize("bias", [True, False])
def test_many_classes_equal_the_plain_formulation(num_classes: int, bias: bool) -> None:
    torch.manual_seed(1)
    head = CamHead(8, num_classes, alpha_train=5.0, bias=bias)
    features_BDHW = torch.randn(3, 8, 4, 5, requires_grad=True)
    inputs, upstream_BK = [features_BDHW, *head.parameters()], torch.randn(3, num_classes)
    expected_BK = boostlu(head.cam(features_BDHW), 5.0).mean((2, 3))
    torch.testing.assert_close(head(features_BDHW), expected_BK)
    for found, expected in zip(
        torch.autograd.grad(head(features_BDHW), inputs, upstream_BK),
        torch.autograd.grad(expected_BK, inputs, upstream_BK),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_pairs_crowded_on_one_image() -> None:
    head, features_BDHW = make()
    rows_E = torch.cat([torch.full((40,), 1), torch.tensor([2, 0, 2])])[torch.randperm(43)]
    classes_E = torch.randint(0, 11, (43,))
    raw_BK, boosted_BK = head.both(features_BDHW)
    raw_E, boosted_E = head.pair_scores(features_BDHW, rows_E, classes_E)
    torch.testing.assert_close(raw_E, raw_BK[rows_E, classes_E])
    torch.testing.assert_close(boosted_E, boosted_BK[rows_E, classes_E])


def test_bf16_features_give_fp32_logits_and_fp32_weight_gradients() -> None:
    head, features_BDHW = make()
    logits_BK = head(features_BDHW.bfloat16())
    assert logits_BK.dtype is torch.float32
    torch.testing.assert_close(logits_BK, head(features_BDHW), rtol=0.05, atol=0.05)
    logits_BK.sum().backward()
    assert head.classifier.weight.grad.dtype is torch.float32


@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_autocast_keeps_logits_in_fp32(alpha: float) -> None:
    torch.manual_seed(2)
    head = CamHead(64, 600, alpha_train=alpha)
    features_BDHW = torch.randn(2, 64, 3, 3, requires_grad=True)
    expected_BK = head(features_BDHW)
    inputs, upstream_BK = [features_BDHW, head.classifier.weight], torch.randn(2, 600)
    expected = torch.autograd.grad(expected_BK, inputs, upstream_BK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BK = head(features_BDHW.bfloat16())
    assert logits_BK.dtype is torch.float32
    assert not torch.equal(logits_BK, logits_BK.bfloat16().float()), "not rounded to bf16"
    torch.testing.assert_close(logits_BK, expected_BK, rtol=0.02, atol=0.02)
    found = torch.autograd.grad(logits_BK, inputs, upstream_BK)
    for found_gradient, expected_gradient in zip(found, expected, strict=True):
        error = (found_gradient - expected_gradient).norm() / expected_gradient.norm()
        assert error < 0.02


def test_maps_are_not_held_between_the_passes() -> None:
    head, features_BDHW = make()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        head(features_BDHW.requires_grad_())
    cam_entries = 3 * 11 * 4 * 5
    assert not [t for t in kept if t.numel() >= cam_entries and t.dtype is torch.float32], (
        "only signs may be as large as the maps"
    )
