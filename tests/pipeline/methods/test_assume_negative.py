"""Full, AN, LS, WAN, EPR and IU equal their references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipeline import methods
from sharding.errors import InputError
from tests.support.goldenvectors import CORES, Core

CASES = [
    ("an", "an", {}),
    ("an", "an_cole", {"epsilon": 1e-5}),
    ("ls", "ls10", {"ls_coef": 0.1}),
    ("ls", "ls05", {"ls_coef": 0.05}),
    ("wan", "wan", {}),
    ("epr", "epr", {"expected_num_pos": None}),
]


@pytest.mark.shared
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("name", "key", "options"), CASES)
def test_equals_the_reference(
    shared: Path, core: str, name: str, key: str, options: dict[str, Any]
) -> None:
    golden = Core.load(shared, core)
    if "expected_num_pos" in options:
        options = {"expected_num_pos": float(golden["role_expected_num_pos"])}
    method = methods.create(name, golden.logits_BK.shape[1], **options)
    golden.check(lambda x, y: method.loss(x, y)[0], key)


@pytest.mark.shared
@pytest.mark.parametrize(("key", "epsilon"), [("full_bce_logits", 0.0), ("full_bce_cole", 1e-5)])
def test_full_label_equals_the_reference(shared: Path, key: str, epsilon: float) -> None:
    golden = Core.load(shared, CORES[0])
    labels_BK = torch.from_numpy(golden["full_labels"]).clamp(0, 1)  # as SPML: 0 is absent
    method = methods.create("full", 20, epsilon=epsilon)
    golden.check(lambda x, _: method.loss(x, labels_BK)[0], key)


def test_full_label_refuses_unobserved_entries() -> None:
    method = methods.create("full", 3)
    with pytest.raises(InputError, match="unobserved"):
        method.loss(torch.zeros(2, 3), torch.tensor([[1, 0, 0], [1, -1, 0]], dtype=torch.int8))


@pytest.mark.parametrize("normalise", ["entries", "observed"])
def test_iu_is_the_cross_entropy_of_observed_entries(normalise: str) -> None:
    logits_BK = torch.randn(5, 7, requires_grad=True)
    labels_BK = torch.randint(-1, 2, (5, 7)).to(torch.int8)
    loss, mask_BK = methods.create("iu", 7, normalise=normalise).loss(logits_BK, labels_BK)
    observed_BK = labels_BK >= 0
    expected = F.binary_cross_entropy_with_logits(
        logits_BK[observed_BK], labels_BK[observed_BK].float(), reduction="sum"
    ) / (35 if normalise == "entries" else observed_BK.sum())
    torch.testing.assert_close(loss, expected)
    (gradient_BK,) = torch.autograd.grad(loss, logits_BK)
    assert (gradient_BK[~observed_BK] == 0).all()
    assert (gradient_BK[observed_BK] != 0).all()
    assert not mask_BK.any()


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits_BK = torch.randn(4, 6).bfloat16()
    labels_BK = torch.randint(-1, 2, (4, 6)).to(torch.int8)
    method = methods.create("an", 6)
    loss, _ = method.loss(logits_BK, labels_BK)
    assert loss.dtype is torch.float32
    assert loss == method.loss(logits_BK.float(), labels_BK)[0]
