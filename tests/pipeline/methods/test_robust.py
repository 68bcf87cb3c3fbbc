"""Hill, SPLC and GR equal their references; verified negatives are negatives in all three."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import methods
from sharding.errors import InputError
from tests.support.goldenvectors import Core

FILES = ("robust_spml_b16_c20", "robust_mixed_b12_c20")
BLIND = {"observed_negatives": "unobserved"}
# Of logits up to 60, with ties.
LOGITS_BK = torch.tensor([[60.0, -60.0, 0.0, 3.0, 3.0]] * 4)
LABELS_BK = torch.tensor([[1] * 5, [0] * 5, [-1] * 5, [1, 0, -1, 0, -1]], dtype=torch.int8)


def blind(name: str, num_classes: int, **options: Any) -> Any:
    return methods.create(name, num_classes, **BLIND, **options)


@pytest.mark.shared
@pytest.mark.parametrize("name", FILES)
def test_hill_equals_the_reference(shared: Path, name: str) -> None:
    golden = Core.load(shared, name)
    K = golden.logits_BK.shape[1]
    for key, options in {
        "hill": {},
        "hill_l1_m05_g3": {"lamb": 1.0, "margin": 0.5, "gamma": 3.0},
    }.items():
        method = blind("hill", K, **options)
        golden.check(lambda x, y, m=method: m.loss(x, y)[0], key)


@pytest.mark.shared
@pytest.mark.parametrize("name", FILES)
def test_splc_equals_the_reference(shared: Path, name: str) -> None:
    golden = Core.load(shared, name)
    keys = [k for k in golden.values.files if k.startswith("splc") and k.endswith("_targets")]
    for key in keys:
        key = key.removesuffix("_targets")
        epoch, tau = key.removeprefix("splc_e").split("_tau")
        method = blind("splc", golden.logits_BK.shape[1], tau=float(tau))
        method.begin_epoch(int(epoch) + 1)
        golden.check(lambda x, y, m=method: m.loss(x, y)[0], key)
        labels_BK = torch.where(golden.labels_BK == 0, -1, golden.labels_BK)
        _, mask_BK = method.loss(golden.logits_BK, labels_BK)
        targets_BK = mask_BK | (labels_BK == 1)
        np.testing.assert_array_equal(targets_BK.numpy(), golden[f"{key}_targets"])
    assert len(keys) == 6


@pytest.mark.shared
@pytest.mark.parametrize("name", FILES)
def test_gr_equals_the_reference(shared: Path, name: str) -> None:
    golden = Core.load(shared, name)
    for E, n, epoch, w, b, mu, sigma in golden["gr_schedule"]:
        method = blind("gr", golden.logits_BK.shape[1], total_epochs=int(E), linear_epochs=int(n))
        method.begin_epoch(int(epoch))
        assert method.schedule() == pytest.approx((w, b, mu, sigma))
        assert method.phase().backbone_frozen == (epoch <= n)
        key = f"gr_E{int(E)}_n{int(n)}_e{int(epoch)}"
        golden.check(lambda x, y, m=method: m.loss(x, y)[0], key)


@pytest.mark.parametrize("name", ["hill", "splc", "gr"])
def test_verified_negatives_push_down_and_are_never_flipped(name: str) -> None:
    losses = {}
    for option in ("negative", "unobserved"):
        method = methods.create(name, 5, observed_negatives=option)
        method.begin_epoch(2)
        logits_BK = LOGITS_BK.clone().requires_grad_()
        loss, mask_BK = method.loss(logits_BK, LABELS_BK)
        (gradient_BK,) = torch.autograd.grad(loss, logits_BK)
        assert torch.isfinite(gradient_BK).all()
        assert np.isfinite(loss.item())
        assert not mask_BK[LABELS_BK >= 0].any()
        assert mask_BK[2].tolist() == [name == "splc" and x > 1 for x in LOGITS_BK[2].tolist()]
        losses[option] = loss.item()
        if option == "negative":
            # Wrong ones most of all; GR's cross-entropy, as its code, ends at -log(1e-7).
            assert (gradient_BK[1, 3:] > 0).all()
            assert (gradient_BK[3, [1, 3]] >= 0).all()
        else:
            as_unobserved = torch.where(LABELS_BK == 0, -1, LABELS_BK)
            assert method.loss(LOGITS_BK, as_unobserved)[0].item() == pytest.approx(loss.item())
    assert losses["negative"] > losses["unobserved"]


def test_splc_corrects_from_the_second_epoch() -> None:
    method = methods.create("splc", 5)
    assert not method.loss(LOGITS_BK, LABELS_BK)[1].any()


def test_gr_moves_the_share_of_unobserved_entries_to_the_confidence() -> None:
    confidences_BK = torch.full((4, 5), torch.nan)
    confidences_BK[2:, 1:] = torch.tensor([0.0, 0.25, 1.0, 0.5])
    labels_BK = LABELS_BK.clone()
    plain: Any = methods.create("gr", 5)
    for weight in (0.5, 1.0):
        method: Any = methods.create("gr", 5, confidence_weight=weight)
        method.begin_epoch(4)
        plain.begin_epoch(4)
        logits_BK = LOGITS_BK.clone().requires_grad_()
        loss, mask_BK = method.loss(logits_BK, labels_BK, None, confidences_BK)
        loss.backward()
        assert torch.isfinite(logits_BK.grad).all()
        assert not mask_BK.any()
        share_BK, _ = plain.weights(torch.sigmoid(LOGITS_BK))
        expected = plain.loss(LOGITS_BK, labels_BK)[0].double() * 20
        _, weight_BK = plain.weights(torch.sigmoid(LOGITS_BK))
        for b, k in (labels_BK == -1).nonzero().tolist():
            if not np.isnan(c := confidences_BK[b, k].item()):
                p = torch.sigmoid(LOGITS_BK[b, k].double())
                present, absent = (1 - p**0.01) / 0.01, 1 - (1 - p)
                moved = weight * (c - share_BK[b, k]) * (present - absent)
                expected += weight_BK[b, k] * moved
        assert loss.item() == pytest.approx(expected.item() / 20, rel=1e-4)
    observed_only = confidences_BK.where(labels_BK != -1, torch.nan)
    unchanged = method.loss(LOGITS_BK, labels_BK, None, observed_only)[0]
    assert unchanged.item() == plain.loss(LOGITS_BK, labels_BK)[0].item()


def test_gr_keeps_the_schedule_it_began_with() -> None:
    begun: Any = methods.create("gr", 3, total_epochs=8)
    prolonged: Any = methods.create("gr", 3, total_epochs=16)
    prolonged.load_state_dict(begun.state_dict())
    for method in (begun, prolonged):
        method.begin_epoch(8)
    assert begun.schedule() == prolonged.schedule()
    prolonged.begin_epoch(12)
    assert begun.schedule() == prolonged.schedule(), "what is prolonged stays at the end"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gr", {"beta": (1.0, 2.0)}),
        ("gr", {"beta": "0;2;-2;-2"}),
        ("gr", {"q": (0.0, 1.0)}),
        ("gr", {"linear_epochs": 8}),
        ("splc", {"tau": 1.5}),
        ("hill", {"lamb": -1.0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        methods.create(name, 3, **options)
