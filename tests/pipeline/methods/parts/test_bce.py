"""The sum read off a product, and its gradient, equal torch's in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipeline.methods.parts import bce, entries
from pipeline.methods.parts.bce import modified_bce_sum

REGIMES: dict[str, Any] = {
    "trained": lambda g: torch.randn(70, 101, generator=g) * 2 - 5,
    "early": lambda g: torch.randn(70, 101, generator=g) * 0.3,
    "broad": lambda g: torch.randn(70, 101, generator=g) * 5,
    "saturated": lambda g: torch.randn(70, 101, generator=g) * 60,
    "all certain": lambda g: torch.full((70, 101), 30.0),
    "all unlikely": lambda g: torch.full((70, 101), -12.34),
    "all impossible": lambda g: torch.full((70, 101), -90.0),
    "at the bound": lambda g: 5.29 + 0.01 * torch.randn(70, 101, generator=g),
}


def batch(regime: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels, and masks of two sets of unobserved entries."""
    generator = torch.Generator().manual_seed(0)
    logits_BK = REGIMES[regime](generator).requires_grad_()
    draw_N = torch.rand(70 * 101, generator=generator)
    labels_BK = torch.where(draw_N < 0.05, 1, torch.where(draw_N < 0.1, 0, -1)).to(torch.int8)
    corrected, rejected = ((draw_N >= low) & (draw_N < low + 0.1) for low in (0.5, 0.7))
    return logits_BK, labels_BK.view(70, 101), corrected, rejected


@pytest.mark.parametrize("where", ["host", "host, in chunks", "GPU's code"])
@pytest.mark.parametrize("regime", REGIMES)
def test_sum_and_gradient_equal_those_of_float64(
    regime: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "GPU's code":
        monkeypatch.setattr(entries, "on_host", lambda values: False)
    elif where != "host":
        monkeypatch.setattr(bce, "_CHUNK", 640)
    logits_BK, labels_BK, corrected, rejected = batch(regime)
    sets = [entries.marked(entries.native(mask_N)) for mask_N in (corrected, rejected)]
    total = modified_bce_sum(logits_BK, labels_BK, corrected=sets[0], rejected=sets[1])
    (gradient_BK,) = torch.autograd.grad(total, logits_BK)
    target_N = (labels_BK == 1).flatten().double()
    target_N[corrected] = 1
    counts_N = torch.ones_like(target_N)
    counts_N[rejected] = 0
    exact_BK = logits_BK.detach().double().requires_grad_()
    expected = F.binary_cross_entropy_with_logits(
        exact_BK.flatten(), target_N, counts_N, reduction="sum"
    )
    (slope_BK,) = torch.autograd.grad(expected, exact_BK)
    assert total.item() == pytest.approx(expected.item(), rel=5e-7)
    torch.testing.assert_close(gradient_BK.double(), slope_BK, rtol=1e-6, atol=1e-15)


def test_a_single_logit_is_as_exact() -> None:
    labels_11 = torch.full((1, 1), -1, dtype=torch.int8)
    for x in torch.linspace(-60, 60, 1201).tolist():
        total = modified_bce_sum(torch.tensor([[x]]), labels_11).item()
        exact = F.softplus(torch.tensor(x).double()).item()
        assert total == pytest.approx(exact, rel=5e-6, abs=1e-15), x


def test_a_second_backward_pass_gives_the_same() -> None:
    logits_BK, labels_BK, corrected, _ = batch("trained")
    loss = modified_bce_sum(logits_BK, labels_BK, corrected=entries.marked(corrected.numpy())) / 3
    (first,) = torch.autograd.grad(loss, logits_BK, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, logits_BK)
    torch.testing.assert_close(second, kept, rtol=0, atol=0)
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_the_sum(value: float) -> None:
    logits_BK, labels_BK = torch.randn(3, 400), torch.full((3, 400), -1, dtype=torch.int8)
    logits_BK[1, 7] = value
    assert not modified_bce_sum(logits_BK, labels_BK).isfinite()


def test_nothing_sums_to_0() -> None:
    logits_BK = torch.zeros(0, 5, requires_grad=True)
    total = modified_bce_sum(logits_BK, torch.zeros(0, 5, dtype=torch.int8))
    (gradient_BK,) = torch.autograd.grad(total, logits_BK)
    assert (total.item(), gradient_BK.shape) == (0, (0, 5))
