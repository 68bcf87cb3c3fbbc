"""The sum of the modified cross-entropy and its gradient equal torch's in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

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
    masks_N = [(draw_N >= low) & (draw_N < low + 0.1) for low in (0.5, 0.7)]
    corrected_BK, rejected_BK = (mask_N.view(70, 101) for mask_N in masks_N)
    return logits_BK, labels_BK.view(70, 101), corrected_BK, rejected_BK


@pytest.mark.parametrize("regime", REGIMES)
def test_sum_and_gradient_equal_those_of_float64(regime: str) -> None:
    logits_BK, labels_BK, corrected_BK, rejected_BK = batch(regime)
    total = modified_bce_sum(logits_BK, labels_BK, corrected=corrected_BK, rejected=rejected_BK)
    (gradient_BK,) = torch.autograd.grad(total, logits_BK)
    target_BK = ((labels_BK == 1) | corrected_BK).double()
    exact_BK = logits_BK.detach().double().requires_grad_()
    expected = F.binary_cross_entropy_with_logits(
        exact_BK, target_BK, (~rejected_BK).double(), reduction="sum"
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
