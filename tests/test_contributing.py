"""The worked example of CONTRIBUTING.md is a method: it runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline.methods.assume_negative import AssumeNegative
from sharding.errors import InputError
from sharding.labels import POSITIVE, UNOBSERVED

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def focal() -> Any:
    """The class of the page's one Python block."""
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    return names["FocalLoss"]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_BK = torch.randn((6, 5), generator=generator) * 30
    labels_BK = torch.randint(UNOBSERVED, POSITIVE + 1, (6, 5), generator=generator).to(torch.int8)
    return logits_BK, labels_BK


def test_gamma_0_is_assume_negative(focal: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits_BK, labels_BK = batch
    loss, modified_BK = focal(5, gamma=0.0).loss(logits_BK, labels_BK)
    expected, _ = AssumeNegative(5).loss(logits_BK, labels_BK)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert not modified_BK.any()


def test_it_is_its_formula(focal: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits_BK, labels_BK = (part.double() for part in batch)
    target_BK = (labels_BK == POSITIVE).double()
    p_BK = torch.sigmoid(logits_BK)
    right_BK = torch.where(target_BK.bool(), p_BK, 1 - p_BK)
    losses_BK = binary_cross_entropy_with_logits(logits_BK, target_BK, reduction="none")
    loss, _ = focal(5, gamma=2.0).loss(*batch)
    expected = ((1 - right_BK) ** 2 * losses_BK).mean().float()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_a_negative_exponent_is_refused(focal: Any) -> None:
    with pytest.raises(InputError, match="gamma -1"):
        focal(5, gamma=-1.0)
