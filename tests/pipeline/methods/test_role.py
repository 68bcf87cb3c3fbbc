"""ROLE and its estimator equal the reference, step by step under dense Adam."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.methods.role import terms
from tests.support.goldenvectors import CORES, Core


@pytest.mark.shared
@pytest.mark.parametrize("core", CORES)
def test_loss_equals_the_reference(shared: Path, core: str) -> None:
    golden = Core.load(shared, core)
    B, K = golden.logits_BK.shape
    k = float(golden["role_expected_num_pos"])

    def fresh() -> Any:
        method: Any = methods.create("role", K, expected_num_pos=k)
        method.estimator.set_rows(torch.arange(B), torch.from_numpy(golden["role_est_logits"]))
        return method

    method, ids_B = fresh(), torch.arange(B)
    golden.check(lambda x, y: method.loss(x, y, ids_B)[0], "role", gradient="role_grad_logits")
    estimates_BK = torch.from_numpy(golden["role_est_logits"]).requires_grad_()
    loss = fresh()._loss(golden.logits_BK, estimates_BK, golden.labels_BK == 1)
    (gradient_BK,) = torch.autograd.grad(loss, estimates_BK)
    golden.check_gradient(gradient_BK.numpy(), "role_grad_est_logits")


@pytest.mark.shared
@pytest.mark.parametrize("core", CORES)
def test_parts_of_the_loss_equal_the_reference(shared: Path, core: str) -> None:
    golden = Core.load(shared, core)
    B, K = golden.logits_BK.shape
    p_BK = golden.logits_BK.sigmoid()
    q_BK = torch.from_numpy(golden["role_est_logits"]).sigmoid()
    terms_BK = terms(p_BK, q_BK, golden.labels_BK == 1)
    golden.check_gradient(terms_BK.numpy(), "role_loss_matrix")
    np.testing.assert_allclose(terms_BK.mean(), golden["role_main"], rtol=1e-5)
    method: Any = methods.create("epr", K, expected_num_pos=float(golden["role_expected_num_pos"]))
    regulariser = 0.5 * (method.regulariser(p_BK, B) + method.regulariser(q_BK, B))
    np.testing.assert_allclose(regulariser, golden["role_reg"], rtol=1e-5)


@pytest.mark.shared
def test_trajectory_equals_the_reference(shared: Path) -> None:
    d = np.load(shared / "golden" / "role_traj_n30_c20.npz")
    labels_NK = torch.from_numpy(np.where(d["role_traj_obs_spml"] == 1, 1, -1).astype(np.int8))
    method: Any = methods.create("role", 20, expected_num_pos=1.5, estimator_lr=0.01)
    ids_N = torch.arange(30) - 15
    initial_NK = torch.from_numpy(d["role_traj_init_est_logits"])
    seen: set[int] = set()
    for step, rows_B in enumerate(torch.from_numpy(d["role_traj_batch_idx"])):
        # Rows enter when their image first comes up, as they do in training.
        new_M = [r for r in rows_B.tolist() if r not in seen]
        method.estimator.set_rows(ids_N[new_M], initial_NK[new_M])
        seen |= set(new_M)
        logits_BK = torch.from_numpy(d["role_traj_logits"][step]).requires_grad_()
        loss, _ = method.loss(logits_BK, labels_NK[rows_B], ids_N[rows_B])
        loss.backward()
        np.testing.assert_allclose(loss.item(), d["role_traj_loss"][step], rtol=1e-5)
        estimates = method.estimator.rows(ids_N[sorted(seen)])
        expected_NK = d["role_traj_est_logits_after_step"][step]
        np.testing.assert_allclose(estimates, expected_NK[sorted(seen)], rtol=1e-5, atol=1e-6)
        unseen = sorted(set(range(30)) - seen)
        np.testing.assert_array_equal(expected_NK[unseen], initial_NK[unseen])
        # Resumed in the middle, the moments go on.
        resumed: Any = methods.create("role", 20, expected_num_pos=1.5, estimator_lr=0.01)
        resumed.load_state_dict(method.state_dict())
        method = resumed
    method.estimator.hand_over()
    handed = d["role_traj_linearinit_handover_est_logits"][sorted(seen)]
    estimates = method.estimator.rows(ids_N[sorted(seen)])
    np.testing.assert_allclose(estimates, handed, rtol=1e-4, atol=1e-5)


def test_initial_logits_follow_the_labels_and_the_id_alone() -> None:
    labels_BK = torch.tensor([[1, 0, -1, -1], [-1, -1, -1, -1]], dtype=torch.int8)
    ids_B = torch.tensor([-3, 8])

    def initial(order: list[int]) -> torch.Tensor:
        method: Any = methods.create("role", 4, expected_num_pos=1.0, seed=5)
        with torch.no_grad():
            method.loss(torch.zeros(2, 4), labels_BK[order], ids_B[order])
        return method.estimator.rows(ids_B)

    estimates = initial([0, 1])
    assert estimates[0, 0] == pytest.approx(math.log(0.995 / 0.005))
    assert estimates[0, 1] == pytest.approx(math.log(0.005 / 0.995))
    assert estimates[labels_BK == -1].abs().max() <= math.log(1.5)
    assert torch.equal(estimates, initial([1, 0]))


def test_linear_init_has_two_phases() -> None:
    method: Any = methods.create("role-li", 3, expected_num_pos=1.0, linear_epochs=2)
    labels_BK, ids_B = torch.full((2, 3), -1, dtype=torch.int8), torch.tensor([1, 2])
    frozen = []
    for epoch in (1, 2, 3):
        method.begin_epoch(epoch)
        frozen.append(method.phase().backbone_frozen)
        if epoch < 3:
            method.loss(torch.randn(2, 3, requires_grad=True), labels_BK, ids_B)
            method.end_epoch()
    assert frozen == [True, True, False]
    assert method.state_dict()["steps"] == 0, "Adam starts anew"
    assert not method.state_dict()["matrices"][1:].any()


def test_an_epoch_that_begins_again_hands_over_once() -> None:
    """Another number of workers resumes an interrupted epoch at its beginning."""
    options = {"expected_num_pos": 1.0, "linear_epochs": 1, "estimator_lr": 0.1}
    labels_BK, ids_B = torch.full((2, 3), -1, dtype=torch.int8), torch.tensor([1, 2])
    first: Any = methods.create("role-li", 3, **options)
    for epoch in (1, 2):
        first.begin_epoch(epoch)
        first.loss(torch.randn(2, 3, requires_grad=True), labels_BK, ids_B)
        assert first.phase().resets_optimizer == (epoch == 2)
    state = first.state_dict()
    assert state["steps"] == 1

    resumed: Any = methods.create("role-li", 3, **options)
    resumed.load_state_dict(state)
    resumed.begin_epoch(2)
    assert not resumed.phase().resets_optimizer, "the network's Adam is not cleared again"
    for key in ("matrices", "steps"):
        torch.testing.assert_close(resumed.state_dict()[key], state[key], rtol=0, atol=0)
    # Of a checkpoint between the two phases it has yet to be done.
    resumed.load_state_dict({**state, "handed_over": torch.tensor(False)})
    resumed.begin_epoch(2)
    assert resumed.phase().resets_optimizer
    assert resumed.state_dict()["steps"] == 0
