"""EM, EM + APL and VLPL equal their references, loss by loss and label by label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import methods
from sharding.errors import InputError
from tests.support.distributed import run_ranks
from tests.support.goldenvectors import CORES, Core


def numbers(key: str) -> dict[str, float]:
    """Parameters in a key such as emapl_a0.1_b0.9_loss."""
    parts = key.split("_")[1:-1]
    return {{"a": "alpha", "b": "beta"}[part[0]]: float(part[1:]) for part in parts}


@pytest.mark.shared
@pytest.mark.parametrize("core", CORES)
def test_em_equals_the_reference(shared: Path, core: str) -> None:
    golden = Core.load(shared, core)
    keys = [k for k in golden.values.files if k.startswith("em_a") and k.endswith("_loss")]
    for key in keys:
        method = methods.create("em", golden.logits_BK.shape[1], **numbers(key))
        golden.check(lambda x, y, m=method: m.loss(x, y)[0], key.removesuffix("_loss"))
    assert keys


@pytest.mark.shared
@pytest.mark.parametrize("core", CORES)
def test_em_apl_equals_the_reference(shared: Path, core: str) -> None:
    golden = Core.load(shared, core)
    B, K = golden.logits_BK.shape
    if "emapl_label_matrix" in golden:
        soft_BK = np.maximum(-golden["emapl_label_matrix"], 0)
    else:
        soft_BK = np.zeros((B, K), np.float32)
        soft_BK.reshape(-1)[golden["emapl_pl_idx"]] = np.abs(golden["emapl_pl_val"])
    rows, classes = np.nonzero(soft_BK)
    keys = [k for k in golden.values.files if k.startswith("emapl_a") and k.endswith("_loss")]
    for key in keys:
        method: Any = methods.create("em-apl", K, **numbers(key))
        method.overlay.replace(rows * 3 - 5, classes, soft_BK[rows, classes])
        ids_B = torch.arange(B) * 3 - 5
        golden.check(lambda x, y, m=method, i=ids_B: m.loss(x, y, i)[0], key.removesuffix("_loss"))
        _, mask_BK = method.loss(golden.logits_BK, golden.labels_BK, ids_B)
        np.testing.assert_array_equal(mask_BK.numpy(), soft_BK > 0)
    assert keys


@pytest.mark.shared
@pytest.mark.parametrize("name", ["robust_spml_b16_c20", "robust_mixed_b12_c20"])
def test_vlpl_equals_the_reference(shared: Path, name: str) -> None:
    golden = Core.load(shared, name)
    pseudo_BK = torch.from_numpy(golden["vlpl_pseudo_positive"])
    confidences_BK = torch.where(pseudo_BK, 0.8, 0.79)
    for epoch in (1, 6):
        method = methods.create("vlpl", 20, observed_negatives="unobserved")
        method.begin_epoch(epoch)
        # The reference knows positives only.
        golden.check(
            lambda x, y, m=method: m.loss(x, y.where(y == 1, -1), None, confidences_BK)[0],
            f"vlpl_e{epoch}",
        )
        labels_BK = golden.labels_BK.where(golden.labels_BK == 1, -1)
        _, mask_BK = method.loss(golden.logits_BK, labels_BK, None, confidences_BK)
        assert torch.equal(mask_BK, pseudo_BK & (epoch > 5))


def test_vlpl_begins_after_its_warm_up_and_never_at_a_label() -> None:
    logits_BK = torch.tensor([[60.0, -60.0, 0.0, 2.0]] * 3)
    labels_BK = torch.tensor([[1, 1, 0, 0], [0, -1, -1, -1], [-1] * 4], dtype=torch.int8)
    sure_BK, silent_BK = torch.ones(3, 4), torch.full((3, 4), torch.nan)
    method = methods.create("vlpl", 4, warmup_epochs=2)
    method.begin_epoch(2)
    _, early_BK = method.loss(logits_BK, labels_BK, None, sure_BK)
    assert not early_BK.any()
    method.begin_epoch(3)
    varied = logits_BK.clone().requires_grad_()
    loss, mask_BK = method.loss(varied, labels_BK, None, sure_BK)
    loss.backward()
    assert torch.equal(mask_BK, labels_BK == -1), "a human's word is the last"
    assert torch.isfinite(varied.grad).all()
    expected = 0.0
    for x, label in zip(logits_BK.flatten().double(), labels_BK.flatten().tolist(), strict=True):
        p = torch.sigmoid(x)
        present, absent = (-torch.log(q + 1e-5).item() for q in (p, 1 - p))
        pseudo = 0.7 * (0.9 * present + 0.1 * absent)
        expected += {1: present, 0: absent, -1: pseudo}[label]
    assert loss.item() == pytest.approx(expected / 12, rel=1e-5)
    silent, mask_BK = method.loss(logits_BK, labels_BK, None, silent_BK)
    em = methods.create("em", 4, alpha=0.2, observed_negatives="cross-entropy")
    assert silent.item() == em.loss(logits_BK, labels_BK)[0].item()
    assert not mask_BK.any()
    with pytest.raises(InputError, match="there are none"):
        method.loss(logits_BK, labels_BK)


def label_matrix(method: Any, labels_NK: torch.Tensor, ids_N: torch.Tensor) -> np.ndarray:
    """In the reference's encoding: 1 positive, 0 unobserved, -s soft negative."""
    matrix_NK = (labels_NK == 1).double().numpy()
    rows, classes, values = method.overlay.find(ids_N)
    matrix_NK[rows, classes] = -values.double().numpy()
    return matrix_NK


def label_all(rank: int, world_size: int, shared: Path) -> list[np.ndarray]:
    """The label matrix after each pass; ranks take the images in turn."""
    d = np.load(shared / "golden" / "apl_n40_c12.npz")
    labels_NK = torch.from_numpy(np.where(d["apl_obs0_spml"] == 1, 1, -1).astype(np.int8))
    ids_N = torch.arange(40) * 11 - 100
    method: Any = methods.create("em-apl", 12, warmup_epochs=5, total_epochs=10, theta=0.9)
    matrices = []
    for e in range(len(d["apl_epochs"])):
        logits_NK = torch.from_numpy(d["apl_logits"][e])
        for rows_B in torch.randperm(40, generator=torch.Generator().manual_seed(e)).split(7):
            own_B = rows_B[rows_B % world_size == rank]
            method.observe(logits_NK[own_B], labels_NK[own_B], ids_N[own_B])
        method.end_pass()
        matrices.append(label_matrix(method, labels_NK, ids_N))
        restored: Any = methods.create("em-apl", 12)
        restored.load_state_dict(method.state_dict())
        np.testing.assert_array_equal(label_matrix(restored, labels_NK, ids_N), matrices[-1])
        assert (restored.initially_unobserved_K == d["apl_unlabel_num"]).all()
    return matrices


@pytest.mark.shared
@pytest.mark.parametrize("world_size", [1, 2])
def test_pseudo_labels_equal_the_reference(shared: Path, world_size: int) -> None:
    expected = np.load(shared / "golden" / "apl_n40_c12.npz")["apl_label_matrix_after"]
    if world_size == 1:
        results = [label_all(0, 1, shared)]
    else:
        results = run_ranks(label_all, world_size, world_size, shared)
    for matrices in results:
        for found_NK, expected_NK in zip(matrices, expected, strict=True):
            np.testing.assert_array_equal(found_NK < 0, expected_NK < 0)
            np.testing.assert_allclose(found_NK, expected_NK, rtol=1e-6)
        per_pass = np.load(shared / "golden" / "apl_n40_c12.npz")["apl_neg_PL_num"]
        np.testing.assert_array_equal((matrices[0] < 0).sum(0), per_pass)


def test_passes_follow_the_warm_up() -> None:
    method = methods.create("em-apl", 3, warmup_epochs=2, total_epochs=5)
    wanted = []
    for epoch in range(1, 6):
        method.begin_epoch(epoch)
        wanted.append(method.passes_wanted())
    assert wanted == [0, 1, 1, 1, 0]


def test_observed_negatives_can_push_down() -> None:
    logits_BK, labels_BK = torch.zeros(1, 2, requires_grad=True), torch.tensor([[0, -1]])
    method: Any = methods.create("em-apl", 2, observed_negatives="cross-entropy")
    loss, _ = method.loss(logits_BK + 1.0, labels_BK.to(torch.int8), torch.tensor([1]))
    (gradient_BK,) = torch.autograd.grad(loss, logits_BK)
    assert gradient_BK[0, 0] > 0.3
    method.observe(torch.full((1, 2), -9.0), labels_BK.to(torch.int8), torch.tensor([1]))
    method.end_pass()
    assert (method.initially_unobserved_K == [0, 1]).all(), "it is not there to be labelled"
