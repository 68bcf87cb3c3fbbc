"""Partial BCE equals its references; labels added from predictions persist and never overwrite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.methods.parts import prediction_buffer
from sharding.errors import InputError
from tests.support.distributed import run_ranks
from tests.support.goldenvectors import CORES, Core


@pytest.mark.shared
@pytest.mark.parametrize("core", CORES)
def test_partial_bce_equals_the_reference(shared: Path, core: str) -> None:
    golden = Core.load(shared, core)
    for i, (alpha, beta, gamma) in enumerate(golden["pbce_params_alpha_beta_gamma"].tolist()):
        method = methods.create(
            "curriculum", golden.logits_BK.shape[1], alpha=alpha, beta=beta, gamma=gamma
        )
        golden.check(lambda x, y, m=method: m.loss(x, y)[0], "pbce", (i,))


@pytest.mark.shared
@pytest.mark.parametrize("rate", ["0.1", "0.5", "1.0"])
def test_the_variant_of_a_third_party_port(shared: Path, rate: str) -> None:
    d = np.load(shared / "golden" / "pbce_lcalem_keras.npz")
    logits_BK = torch.from_numpy(d[f"p{rate}_logits"]).requires_grad_()
    labels_BK = torch.from_numpy(d[f"p{rate}_labels"])
    method: Any = methods.create("curriculum", 20, normalise="known", known_rate=float(rate))
    loss, _ = method.loss(logits_BK, labels_BK)
    (gradient_BK,) = torch.autograd.grad(loss, logits_BK)
    np.testing.assert_allclose(loss.item(), d[f"p{rate}_loss_mean"], rtol=1e-5)
    np.testing.assert_allclose(gradient_BK, d[f"p{rate}_grad_mean"], rtol=1e-4, atol=1e-6)
    for b, expected in enumerate(d[f"p{rate}_loss_per_sample"]):
        alone, _ = method.loss(logits_BK[b : b + 1], labels_BK[b : b + 1])
        np.testing.assert_allclose(alone.item(), expected, rtol=1e-5)
    factor = method.factor(torch.ones(1)) * 1  # of an image with one known entry
    np.testing.assert_allclose(factor, d[f"p{rate}_norm_factor"], rtol=1e-6)


LABELS_NK = torch.tensor([[1, -1, -1], [0, -1, -1], [-1, -1, -1], [-1, 1, -1]], dtype=torch.int8)
LOGITS_NK = torch.tensor([[-9.0, 5.0, 0.0], [9.0, -5.0, 4.5], [3.0, 2.0, 1.0], [-8.0, -9.0, 6.0]])
IDS_N = torch.tensor([40, -3, 7, 12])
ADDED: dict[str, Any] = {
    "score": [[-1, 1, -1], [-1, -1, 1], [-1, -1, -1], [-1, -1, 1]],
    "top": [[-1, 1, -1], [-1, -1, -1], [-1, -1, -1], [-1, -1, 1]],
    "uncertainty": [[-1, 1, 0], [-1, 0, 1], [1, 1, 1], [0, -1, 1]],
}
OPTIONS: dict[str, Any] = {
    "score": {"negative_threshold": -float("inf")},
    "top": {"top": 0.25},
    "uncertainty": {"passes": 2},
}


def relabel(rank: int, world_size: int, strategy: str) -> tuple[Any, Any]:
    """(labels added, loss) after one relabelling and a checkpoint; ranks take turns."""
    options = {"relabel_every": 2, "strategy": strategy} | OPTIONS[strategy]
    method: Any = methods.create("curriculum", 3, **options)
    own_B = torch.arange(4)[rank::world_size]
    method.begin_epoch(1)
    assert method.passes_wanted() == 0
    method.begin_epoch(2)
    assert method.passes_wanted() == (2 if strategy == "uncertainty" else 1)
    for _ in range(method.passes_wanted()):
        method.observe(LOGITS_NK[own_B], LABELS_NK[own_B], IDS_N[own_B])
        method.end_pass()
    restored: Any = methods.create("curriculum", 3, **options)
    restored.load_state_dict(method.state_dict())
    none_NK = torch.full_like(LABELS_NK, -1)
    loss, mask_BK = restored.loss(LOGITS_NK[own_B], LABELS_NK[own_B], IDS_N[own_B])
    added_NK = restored.overlay.apply(none_NK, IDS_N)
    assert torch.equal(mask_BK, added_NK[own_B] != -1)
    return added_NK.tolist(), loss.item()


@pytest.mark.parametrize("strategy", list(ADDED))
def test_relabelling(strategy: str) -> None:
    added, loss = relabel(0, 1, strategy)
    assert added == ADDED[strategy]
    for added_by_rank, _ in (ranks := run_ranks(relabel, 2, 2, strategy)):
        assert added_by_rank == added
    assert np.mean([value for _, value in ranks]) == pytest.approx(loss, rel=1e-5)


def test_labels_are_made_anew_each_time() -> None:
    method: Any = methods.create("curriculum", 3, relabel_every=1)
    for logit in (9.0, 0.0):
        method.observe(torch.full((1, 3), logit), LABELS_NK[2:3], IDS_N[2:3])
        method.end_pass()
    assert len(method.overlay) == 0


def test_more_labels_than_fit_are_refused_with_the_arithmetic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nearly all entries of a large set are confidently absent."""
    monkeypatch.setattr(prediction_buffer, "_LIMIT", 64)
    options = {"relabel_every": 1, "positive_threshold": 9.0}
    method: Any = methods.create("curriculum", 3, **options)
    with pytest.raises(InputError, match=r"6 entries x 16 bytes .*negative_threshold=-inf"):
        method.observe(torch.full((2, 3), -5.0), LABELS_NK[2:3].expand(2, 3), IDS_N[:2])
    method = methods.create("curriculum", 3, **options, negative_threshold=-float("inf"))
    for _ in range(3):
        method.observe(torch.full((1, 3), 10.0), LABELS_NK[2:3], IDS_N[:1])
        method.end_pass()


def test_dropout_passes_that_disagree_add_nothing() -> None:
    method: Any = methods.create("curriculum", 3, relabel_every=1, strategy="uncertainty", passes=2)
    for logit in (9.0, -9.0):
        method.observe(torch.full((1, 3), logit), LABELS_NK[2:3], IDS_N[2:3])
        method.end_pass()
    assert len(method.overlay) == 0
