"""ASL and P-ASL equal their references; the prior survives checkpoints and class lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.methods.parts import class_prior
from sharding.errors import InputError
from tests.support.goldenvectors import CORES, Core


@pytest.mark.shared
@pytest.mark.parametrize("core", CORES)
def test_asl_equals_the_reference(shared: Path, core: str) -> None:
    golden = Core.load(shared, core)
    for i, variant in enumerate(golden["asl_variants"]):
        given = dict(part.split("=") for part in str(variant).split("|")[1:])
        method = methods.create(
            "asl",
            golden.logits_BK.shape[1],
            gamma_neg=float(given["gn"]),
            gamma_pos=float(given["gp"]),
            clip=float(given["clip"]),
            detach=given["disable_grad_focal"] == "True",
        )
        golden.check(lambda x, y, m=method: m.loss(x, y)[0], "asl", (i,))


def p_asl(golden: Core, variant: int) -> Any:
    given = json.loads(str(golden["csl_params"][variant]))
    given["mode"] = given.pop("partial_loss_mode") or "negative"
    names = set(methods.options_of("p-asl"))
    if given.pop("use_prior", False):
        given["prior"] = torch.from_numpy(golden["csl_prior"])
    given = {key: value for key, value in given.items() if key in names}
    return methods.create("p-asl", golden.logits_BK.shape[1], **given)


@pytest.mark.shared
@pytest.mark.parametrize("core", CORES)
def test_p_asl_equals_the_reference(shared: Path, core: str) -> None:
    golden = Core.load(shared, core)
    for i in range(len(golden["csl_variants"])):
        method = p_asl(golden, i)
        golden.check(lambda x, y, m=method: m.loss(x, y)[0], "csl", (i,))
        weights_BK, _ = method.weights(golden.logits_BK, golden.labels_BK)
        golden.check_gradient(weights_BK.numpy(), "csl_weights", (i,))


def test_selective_ignores_only_unobserved_entries() -> None:
    labels_BK = torch.tensor([[1, 0, -1, -1], [-1, 0, 1, 0]], dtype=torch.int8)
    logits_BK = torch.tensor([[9.0, 8.0, -5.0, -6.0], [-7.0, 5.0, 4.0, 3.0]])
    method = methods.create("p-asl", 4, likelihood_topk=1)
    _, mask_BK = method.loss(logits_BK, labels_BK)
    assert mask_BK.tolist() == [[False, False, True, True], [False] * 4]
    method = methods.create("p-asl", 4, likelihood_topk=0, prior=[0.9, 0.9, 0.0, 0.0])
    _, mask_BK = method.loss(logits_BK, labels_BK)
    assert mask_BK.nonzero().tolist() == [[1, 0]]


def test_the_first_epochs_estimate_the_prior() -> None:
    method: Any = methods.create("p-asl", 3, prior_epochs=1, prior_threshold=0.6, likelihood_topk=0)
    logits_BK, labels_BK = torch.tensor([[3.0, 0.0, -3.0]] * 2), torch.full((2, 3), -1)
    labels_BK = labels_BK.to(torch.int8)
    method.begin_epoch(1)
    loss, _ = method.loss(logits_BK, labels_BK)
    assert loss == 0, "unobserved entries are ignored while the prior is estimated"
    method.end_epoch()
    restored: Any = methods.create(
        "p-asl", 3, prior_epochs=1, prior_threshold=0.6, likelihood_topk=0
    )
    restored.load_state_dict(method.state_dict())
    restored.begin_epoch(2)
    _, mask_BK = restored.loss(logits_BK, labels_BK)
    assert mask_BK.tolist() == [[True, False, False]] * 2
    restored.end_epoch()
    torch.testing.assert_close(restored.prior(), logits_BK[0].double().sigmoid())


@pytest.mark.parametrize("mode", ["selective", "negative", "ignore_normalize_classes", "ignore"])
def test_only_a_training_that_ignores_the_unobserved_estimates_a_prior(mode: str) -> None:
    method: Any = methods.create("p-asl", 2, mode=mode)
    method.begin_epoch(1)
    method.loss(torch.zeros(3, 2), torch.full((3, 2), -1, dtype=torch.int8))
    method.end_epoch()
    state = method.state_dict()
    images = 3.0 if mode == "ignore" else 0.0
    assert state["prior_images"] == images
    assert state["prior_sum"].tolist() == [images / 2] * 2


def test_prior_files_are_keyed_by_mid(tmp_path: Path) -> None:
    class_prior.write(tmp_path / "p.parquet", ["/m/a", "/m/b"], torch.tensor([0.25, 0.5]))
    assert class_prior.read(tmp_path / "p.parquet", ["/m/b", "/m/a"]).tolist() == [0.5, 0.25]
    with pytest.raises(InputError, match="/m/c"):
        class_prior.read(tmp_path / "p.parquet", ["/m/c"])
    with pytest.raises(InputError, match="file of priors is missing"):
        class_prior.read(tmp_path / "q.parquet", ["/m/c"])
    (tmp_path / "bad").write_text("mid,prior")
    with pytest.raises(InputError, match="not a file of priors"):
        class_prior.read(tmp_path / "bad", ["/m/c"])


def test_saturated_logits_stay_finite() -> None:
    logits_BK = torch.tensor([[60.0, -60.0, 0.0]] * 3, requires_grad=True)
    labels_BK = torch.tensor([[1] * 3, [0] * 3, [-1] * 3], dtype=torch.int8)
    for name in ("asl", "p-asl"):
        loss, _ = methods.create(name, 3).loss(logits_BK, labels_BK)
        assert np.isfinite(loss.item())
        (gradient_BK,) = torch.autograd.grad(loss, logits_BK)
        assert torch.isfinite(gradient_BK).all()
