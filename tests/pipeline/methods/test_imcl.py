"""IMCL equals its reference; its dictionary and graph do not depend on order or world size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.methods.parts import matching_pursuit
from pipeline.methods.parts.collectives import Collectives
from pipeline.methods.parts.imcl_dictionary import Dictionary, DictionaryBuilder
from pipeline.models.cam_head import CamHead
from sharding.errors import InputError
from tests.support.distributed import run_ranks


class Golden:
    """The stored arrays, labels in our encoding."""

    def __init__(self, shared: Path) -> None:
        self.arrays = np.load(shared / "golden" / "imcl_k3_af0.5.npz")

    def __getattr__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def labels(self, name: str) -> torch.Tensor:
        theirs = self.arrays[name]  # +1, -1 negative, 0 unknown
        return torch.from_numpy(np.select([theirs == 1, theirs == -1], [1, 0], -1).astype(np.int8))


@pytest.fixture
def golden(shared: Path) -> Golden:
    return Golden(shared)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(torch.as_tensor(found).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.shared
def test_scores_and_graph_equal_the_reference(golden: Golden) -> None:
    close(matching_pursuit.asymmetric_sigmoid(golden.asym_x), golden.asym_y)
    close(matching_pursuit.normalised_graph(golden.G_raw), golden.G)


@pytest.mark.shared
def test_pursuit_and_gradients_equal_the_reference(golden: Golden) -> None:
    features, theta, graph = (getattr(golden, n).requires_grad_() for n in ("F", "Theta", "G"))
    logits = features @ theta
    close(logits, golden.logits)
    atoms = matching_pursuit.dictionary_labels(
        golden.F_dict @ theta, graph, golden.labels("labels_dict_pm1")
    )
    labels = matching_pursuit.completed(
        matching_pursuit.asymmetric_sigmoid(logits), golden.labels("labels_pm1")
    )
    selected, label, feature = matching_pursuit.pursue(
        labels, features, atoms, golden.F_dict, count=3, weights=(1.0, 0.5)
    )
    np.testing.assert_array_equal(selected, golden.active_set)
    close(label, golden.coef_label)
    close(feature, golden.coef_feature)
    left_label = matching_pursuit.residual(labels, atoms, selected, label)
    left_feature = matching_pursuit.residual(features, golden.F_dict, selected, feature)
    close(left_label, golden.residual_label)
    close(left_feature, golden.residual_feature)
    loss = (left_label**2).sum() / len(labels)
    close(loss, golden.loss_colab)
    close((left_feature**2).sum() / len(labels), golden.loss_feature)
    gradients = torch.autograd.grad(loss, [theta, graph, features])
    for found, name in zip(gradients, ("Theta", "G", "F"), strict=True):
        close(found, getattr(golden, f"grad_colab_{name}"))


def headed(theta: torch.Tensor) -> CamHead:
    """A head whose weight and bias are the rows of Theta; the last feature is constant 1."""
    head = CamHead(len(theta) - 1, theta.shape[1], alpha_train=1.0)
    weight = theta[:-1].T.contiguous()[:, :, None, None]
    head.load_state_dict({"classifier.weight": weight, "classifier.bias": theta[-1]})
    return head


@pytest.mark.shared
def test_the_method_equals_the_reference(golden: Golden) -> None:
    head = headed(golden.Theta)
    method: Any = methods.create("imcl", 10, num_atoms=3)
    method.attach(head)
    logits = head(golden.F[:, :-1, None, None])
    logistic, _ = method.loss(logits, golden.labels("labels_pm1"))
    close(logistic, golden.loss_logistic)
    (gradient,) = torch.autograd.grad(logistic, head.classifier.weight, retain_graph=True)
    close(gradient.flatten(1).T, golden.grad_logistic_Theta[:-1])
    method.dictionary = Dictionary(
        ids_A=torch.arange(15),
        features_AD=golden.F_dict,
        labels_AK=golden.labels("labels_dict_pm1"),
        graph_KK=golden.G_raw,
    )
    method.set_graph(golden.G)
    method.weights = (1.0, 0.5)
    loss, _ = method.loss(logits, golden.labels("labels_pm1"))
    close(loss, golden.loss_logistic + golden.loss_colab + 0.5 * golden.loss_feature)
    residual = loss - logistic
    gradients = torch.autograd.grad(residual, [head.classifier.weight, head.classifier.bias])
    close(gradients[0].flatten(1).T, golden.grad_colab_Theta[:-1])
    close(gradients[1], golden.grad_colab_Theta[-1])
    trained = method.state_dict()["graph"]["tensors"]["graph"]
    assert ((trained == golden.G) | (golden.G != 0)).all(), "absent co-occurrences stay absent"
    assert not torch.equal(trained, golden.G)


K, D, N = 6, 4, 12


def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels_NK = torch.randint(-1, 2, (N, K), generator=generator).to(torch.int8)
    return torch.rand(N, D, 1, 1, generator=generator), labels_NK, torch.arange(N) * 5 - 20


def train(rank: int, world_size: int) -> dict[str, Any]:
    """Two epochs with a pass after each; one rank may hold far fewer images."""
    torch.manual_seed(1)
    head, (features, labels_NK, ids_N) = CamHead(D, K), images()
    own = torch.arange(N)[rank::world_size] if rank < 3 else torch.arange(0)
    method: Any = methods.create("imcl", K, num_atoms=2, atoms_per_class=2)
    method.attach(head)
    losses = []
    for epoch in (1, 2, 3):
        method.begin_epoch(epoch)
        # As the trainer does: a rank without images runs one, and drops its logits.
        rows = own if len(own) else torch.tensor([0])
        logits = head(features[rows])[: len(own)]
        loss, _ = method.loss(logits, labels_NK[own], ids_N[own])
        losses.append(loss.item())
        method.end_epoch()
        assert method.passes_wanted() == 1
        with torch.no_grad():
            method.observe(head(features[rows])[: len(own)], labels_NK[own], ids_N[own])
        method.end_pass()
    head.zero_grad()
    loss.backward()
    resumed: Any = methods.create("imcl", K, num_atoms=2)
    resumed.attach(head)
    resumed.load_state_dict(method.state_dict())
    assert resumed.weights == pytest.approx(method.weights)
    return {
        "losses": losses,
        "gradient": head.classifier.weight.grad.numpy(),
        "atoms": method.dictionary.ids_A.tolist(),
        "graph": method.dictionary.graph_KK.numpy(),
        "moments": method.graph.state_dict()["optimizer"]["state"][0]["exp_avg"].numpy(),
    }


def test_ranks_equal_one_process() -> None:
    alone = train(0, 1)
    assert alone["losses"][1] > alone["losses"][0], "residuals join once there is a dictionary"
    for world_size in (2, 3):
        results = run_ranks(train, world_size, world_size)
        mean = np.mean([r["losses"] for r in results], 0)
        np.testing.assert_allclose(mean, alone["losses"], rtol=1e-4)
        gradient = np.mean([r["gradient"] for r in results], 0)
        np.testing.assert_allclose(gradient, alone["gradient"], rtol=1e-3, atol=1e-5)
        for r in results:
            assert r["atoms"] == alone["atoms"]
            np.testing.assert_array_equal(r["graph"], alone["graph"])
            np.testing.assert_allclose(r["moments"], alone["moments"], rtol=1e-3, atol=1e-6)


def test_the_dictionary_holds_positives_of_every_class() -> None:
    features, labels_NK, ids_N = images()
    builder = DictionaryBuilder(K, 1)
    for rows in torch.randperm(N).split(5):
        builder.add(features[rows, :, 0, 0], labels_NK[rows], ids_N[rows])
    dictionary = builder.build(Collectives())
    for k in range(K):
        positives = ids_N[labels_NK[:, k] == 1]
        assert positives.min() in dictionary.ids_A
    counts = (labels_NK == 1).float()
    expected = counts.T @ counts / counts.sum(0)
    torch.testing.assert_close(dictionary.graph_KK, expected)


def test_features_are_missed_with_a_remedy() -> None:
    method: Any = methods.create("imcl", 3)
    with pytest.raises(InputError, match="attach"):
        method.observe(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.int8), torch.tensor([1]))
