"""Selection picks the very entries of the reference, whatever the logits look like."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.methods.parts.collectives import Collectives
from pipeline.methods.parts.selection import select_largest
from tests.support.distributed import run_ranks

B, K = 32, 2500
REGIMES: dict[str, Any] = {
    "trained": lambda g: torch.randn(B, K, generator=g) * 2 - 5,
    "early": lambda g: torch.randn(B, K, generator=g) * 0.3 - 1,
    "nearly constant": lambda g: torch.randn(B, K, generator=g) * 1e-4 - 4,
    "constant": lambda g: torch.full((B, K), -3.0),
    "saturated": lambda g: torch.randn(B, K, generator=g) * 30,
    "losses near 0": lambda g: torch.randn(B, K, generator=g) - 13,
    "losses all 0": lambda g: torch.randn(B, K, generator=g) - 40,
    "far apart": lambda g: (torch.rand(B, K, generator=g) - 0.5) * 120,
    "heavy tail": lambda g: torch.randn(B, K, generator=g) ** 5 - 6,
}


def make_labels(generator: torch.Generator) -> torch.Tensor:
    draw_BK = torch.rand(B, K, generator=generator)
    labels_BK = torch.full((B, K), -1, dtype=torch.int8)
    labels_BK[draw_BK < 0.002] = 1
    labels_BK[draw_BK > 0.997] = 0
    labels_BK[0], labels_BK[1] = -1, 0  # a row without and a row full of observations
    return labels_BK


def make_batch(regime: str, rounded: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits_BK = REGIMES[regime](generator)
    return logits_BK.bfloat16().float() if rounded else logits_BK, make_labels(generator)


def reference_mask(logits_BK: torch.Tensor, labels_BK: torch.Tensor, k: int) -> torch.Tensor:
    """The reference's arithmetic, with the guard that leaves observed and zero entries alone."""
    zeros_BK, unobserved_BK = torch.zeros_like(logits_BK), labels_BK == -1
    losses_BK = F.binary_cross_entropy_with_logits(logits_BK, zeros_BK, reduction="none")
    losses_BK = losses_BK * unobserved_BK
    threshold = torch.topk(losses_BK.flatten(), min(k, losses_BK.numel())).values[-1]
    return (losses_BK >= threshold) & unobserved_BK & (losses_BK > 0)


@pytest.mark.parametrize("rounded", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("regime", REGIMES)
def test_selects_what_the_reference_selects(regime: str, rounded: bool) -> None:
    for seed, k in itertools.product(range(12), (1, 32, 800, 3600, B * K)):
        logits_BK, labels_BK = make_batch(regime, rounded, seed)
        mask_BK = select_largest(logits_BK, labels_BK, k, Collectives())
        expected_BK = reference_mask(logits_BK, labels_BK, k)
        differences = int((mask_BK != expected_BK).sum())
        assert differences == 0, f"seed {seed}, k {k}: {differences} entries differ"


def test_ranking_by_logit_alone_is_not_exact() -> None:
    """The stress above can fail: the obvious shortcut differs in hundreds of entries."""
    logits_BK, labels_BK = make_batch("nearly constant", False, 0)
    candidates_BK = logits_BK.masked_fill(labels_BK != -1, -torch.inf)
    shortcut_BK = candidates_BK >= torch.topk(candidates_BK.flatten(), 3600).values[-1]
    assert (shortcut_BK != reference_mask(logits_BK, labels_BK, 3600)).sum() > 500


CASES = [(r, rounded, k) for r in REGIMES for rounded in (False, True) for k in (32, 3600)]


def masks_of_share(rank: int, sizes: list[int]) -> list[np.ndarray]:
    """This rank's mask of every case."""
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    masks = []
    for regime, rounded, k in CASES:
        logits_BK, labels_BK = make_batch(regime, rounded, 1)
        mask_BK = select_largest(logits_BK[rows], labels_BK[rows], k, Collectives())
        masks.append(mask_BK.numpy())
    return masks


@pytest.mark.parametrize("sizes", [[20, 12], [1, 0, 19, 12]], ids=len)
def test_ranks_together_select_what_the_reference_selects(sizes: list[int]) -> None:
    masks_by_rank = run_ranks(masks_of_share, len(sizes), sizes)
    for case, (regime, rounded, k) in enumerate(CASES):
        mask_BK = np.concatenate([masks[case] for masks in masks_by_rank])
        expected_BK = reference_mask(*make_batch(regime, rounded, 1), k)
        np.testing.assert_array_equal(mask_BK, expected_BK, err_msg=f"{CASES[case]}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_do_not_stop_the_step(value: float) -> None:
    """The loss shows them, on all ranks together; selection must not raise on one."""
    logits_BK = torch.randn(3, 50)
    logits_BK[1, 7] = value
    labels_BK = torch.full((3, 50), -1, dtype=torch.int8)
    for k in (1, 20, 150):
        select_largest(logits_BK, labels_BK, k, Collectives())
