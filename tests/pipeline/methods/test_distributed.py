"""Two and four ranks give the masks, the loss, the gradients and the state of one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.methods.parts.collectives import Collectives
from pipeline.models.cam_head import CamHead
from tests.pipeline.methods.test_registry import REQUIRED
from tests.support.distributed import run_ranks

K, EPOCHS = 12, 3
# Shares differ in size, and one rank has nothing.
SHARES = {1: [[14]], 2: [[9, 5], [14, 0]], 4: [[5, 0, 7, 2], [4, 4, 4, 2]]}
# So that many are selected, by the estimated prior too, and many labels added by the passes.
SEVERAL: dict[str, dict[str, Any]] = {
    "ll-r": {"delta_rel": 7.0},
    "ll-ct": {"delta_rel": 7.0},
    "ll-cp": {"delta_rel": 5.0},
    "p-asl": {"prior_epochs": 1, "prior_threshold": 0.52, "likelihood_topk": 1},
    "curriculum": {"relabel_every": 1, "positive_threshold": 3.0, "negative_threshold": -3.0},
    "splc": {"tau": 0.6},
    "em-apl": {"warmup_epochs": 1, "total_epochs": 4},
    "vlpl": {"warmup_epochs": 1, "threshold": 0.5},
}
# What is divided by is a matter of all ranks, too.
OTHERS: dict[str, dict[str, Any]] = {
    "iu": {"normalise": "observed"},
    "gr": {"confidence_weight": 0.5},
}


def global_batch(epoch: int, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(epoch)
    logits_BK = torch.randn(14, K, generator=generator).mul(3).round(decimals=1)  # with ties
    lowest = 0 if name == "full" else -1
    labels_BK = torch.randint(lowest, 2, (14, K), generator=generator).to(torch.int8)
    labels_BK[:6] = labels_BK[:6].clamp(lowest, lowest + 1)
    return logits_BK, labels_BK, torch.randperm(14, generator=generator) - 7


def confidences_of(epoch: int) -> torch.Tensor:
    values_BK = torch.rand(14, K, generator=torch.Generator().manual_seed(epoch))
    return values_BK.where(values_BK > 0.3, torch.nan)


def share_of(rank: int, sizes: list[int], tensors: Any) -> list[torch.Tensor]:
    first = sum(sizes[:rank])
    return [tensor[first : first + sizes[rank]] for tensor in tensors]


def train(
    rank: int, sizes: list[int], name: str, state: Any = None, last: int = EPOCHS
) -> dict[str, Any]:
    """A few epochs of one step each, the last alone from a state; everything a method gives."""
    options = (REQUIRED | SEVERAL | OTHERS).get(name, {})
    torch.manual_seed(0)
    method = methods.create(name, K, **options)
    losses, masks, gradients = [], [], []
    if state is not None:
        method.load_state_dict(state)
    for epoch in range(1 if state is None else last, last + 1):
        method.begin_epoch(epoch)
        whole = (*global_batch(epoch, name), confidences_of(epoch))
        logits_BK, labels_BK, ids_B, confidences_BK = share_of(rank, sizes, whole)
        logits_BK.requires_grad_()
        loss, mask_BK = method.loss(logits_BK, labels_BK, ids_B, confidences_BK)
        loss.backward()
        method.end_epoch()
        for _ in range(method.passes_wanted()):
            method.observe(logits_BK.detach(), labels_BK, ids_B)
            method.end_pass()
        losses.append(loss.item())
        masks.append(mask_BK.numpy())
        gradients.append(logits_BK.grad.numpy())
    return {
        "losses": losses,
        "masks": masks,
        "gradients": gradients,
        "state": dict(leaves_of(method.state_dict())),
        "states": method.state_dict(),
    }


def leaves_of(state: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Tensors and numbers of a nested state."""
    if isinstance(state, dict | list | tuple):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from leaves_of(value, f"{name}/{key}")
    elif isinstance(state, torch.Tensor | int | float):
        yield name, np.asarray(state)


def train_all(rank: int, sizes: list[int]) -> dict[str, dict[str, Any]]:
    return {name: train(rank, sizes, name) for name in methods.names()}


@pytest.mark.parametrize(
    ("world_size", "sizes"), [(w, sizes) for w in (2, 4) for sizes in SHARES[w]]
)
def test_ranks_equal_one_process(world_size: int, sizes: list[int]) -> None:
    alone = train_all(0, [14])
    ranks = run_ranks(train_all, world_size, sizes)
    for name, expected in alone.items():
        results = [result[name] for result in ranks]
        np.testing.assert_allclose(
            np.mean([r["losses"] for r in results], 0), expected["losses"], rtol=1e-5, err_msg=name
        )
        for epoch in range(EPOCHS):
            mask_BK = np.concatenate([r["masks"][epoch] for r in results])
            np.testing.assert_array_equal(mask_BK, expected["masks"][epoch], err_msg=name)
            # DDP averages gradients over the ranks.
            gradient_BK = np.concatenate([r["gradients"][epoch] for r in results]) / world_size
            np.testing.assert_allclose(
                gradient_BK, expected["gradients"][epoch], rtol=1e-4, atol=1e-7, err_msg=name
            )
        for key, value in expected["state"].items():
            # Adam turns the rounding of a gradient near 0 into whole steps (1e-3); its moments,
            # compared as well, do not.
            atol = 3e-3 if "/tensors/" in key else 1e-6
            for r in results:
                np.testing.assert_allclose(
                    r["state"][key], value, rtol=1e-4, atol=atol, err_msg=name + key
                )


def test_selecting_methods_select_in_this_test() -> None:
    for name in SEVERAL:
        assert sum(mask.sum() for mask in train(0, [14], name)["masks"]) > 8


def train_ddp(rank: int, sizes: list[int]) -> tuple[np.ndarray, float]:
    """The weights after two steps of a head under DDP, and a loss."""
    torch.manual_seed(3)
    model: torch.nn.Module = CamHead(4, K, alpha_train=5.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    if torch.distributed.is_initialized():
        model = torch.nn.parallel.DistributedDataParallel(model)
    features_NDHW = torch.randn(14, 4, 3, 3)
    method = methods.create("ll-ct", K, delta_rel=7.0)
    for epoch in (2, 3):
        method.begin_epoch(epoch)
        whole = (features_NDHW, *global_batch(epoch, "ll-ct")[1:])
        features_BDHW, labels_BK, ids_B = share_of(rank, sizes, whole)
        # A rank without images runs one and drops its logits, to join DDP's collectives.
        inputs = features_BDHW if len(features_BDHW) else torch.zeros(1, 4, 3, 3)
        loss, _ = method.loss(model(inputs)[: len(features_BDHW)], labels_BK, ids_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return next(model.parameters()).detach().numpy(), loss.item()


@pytest.mark.parametrize(
    ("world_size", "sizes"), [(w, sizes) for w in (2, 4) for sizes in SHARES[w]]
)
def test_ddp_trains_as_one_process(world_size: int, sizes: list[int]) -> None:
    weights, loss = train_ddp(0, [14])
    results = run_ranks(train_ddp, world_size, sizes)
    assert np.mean([value for _, value in results]) == pytest.approx(loss, rel=1e-5)
    for own, _ in results:
        np.testing.assert_allclose(own, weights, rtol=1e-4, atol=1e-6)


def collectives(rank: int) -> dict[str, Any]:
    ranks = Collectives()
    own = torch.arange(rank * 10, rank * 10 + rank)  # 0, 1, 2, 3 values
    return {
        "joined": ranks.concatenate(own.view(-1, 1)).flatten().tolist(),
        "kth": [ranks.kth_largest(own.float(), k).item() for k in (1, 4, 6, 7)],
        "of_floats": [ranks.kth_largest(awkward_floats()[rank::4], k).item() for k in PLACES],
    }


PLACES = (1, 2, 3, 50, 400, 401, 402, 500, 1999)


def awkward_floats() -> torch.Tensor:
    """Ties, both zeros, denormals, neighbours that differ in the last bit, infinities."""
    values = torch.randn(1600, generator=torch.Generator().manual_seed(0)) * 1e-3 - 4
    steps = torch.arange(100, dtype=torch.int32)
    neighbours = (torch.tensor(7.5).view(torch.int32) + steps).view(torch.float32)
    special = torch.tensor([0.0, -0.0, 1e-42, -1e-42, torch.inf, -torch.inf]).repeat(50)
    return torch.cat([values, neighbours, special])


def test_collectives_take_shares_of_any_length() -> None:
    for results in run_ranks(collectives, 4):
        assert results["joined"] == [10, 20, 21, 30, 31, 32]
        assert results["kth"] == [32, 21, 10, -float("inf")]
        descending = awkward_floats().sort(descending=True).values
        assert results["of_floats"] == [descending[k - 1].item() for k in PLACES]


def test_a_rank_that_raises_is_reported() -> None:
    def fail(rank: int) -> None:
        if rank == 1:
            raise RuntimeError("no luck")

    with pytest.raises(AssertionError, match=r"rank 1 raised(.|\n)*no luck"):
        run_ranks(fail, 2)


def go_on(rank: int, sizes: list[int], states: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One more epoch from states that another world size wrote."""
    return {name: train(rank, sizes, name, state) for name, state in states.items()}


def states_after(rank: int, sizes: list[int]) -> dict[str, Any]:
    return {name: train(rank, sizes, name, last=EPOCHS - 1)["states"] for name in methods.names()}


def test_state_goes_on_at_another_world_size() -> None:
    alone = train_all(0, [14])
    (written, *_) = run_ranks(states_after, 4, SHARES[4][0])
    for world_size, sizes in ((1, [14]), (2, SHARES[2][0])):
        if world_size == 1:
            ranks = [go_on(0, sizes, written)]
        else:
            ranks = run_ranks(go_on, world_size, sizes, written)
        for name, expected in alone.items():
            results = [result[name] for result in ranks]
            np.testing.assert_allclose(
                np.mean([r["losses"] for r in results]), expected["losses"][-1], rtol=1e-4
            )
            mask_BK = np.concatenate([r["masks"][0] for r in results])
            np.testing.assert_array_equal(mask_BK, expected["masks"][-1], err_msg=name)
            gradient_BK = np.concatenate([r["gradients"][0] for r in results]) / world_size
            np.testing.assert_allclose(
                gradient_BK, expected["gradients"][-1], rtol=1e-3, atol=1e-6, err_msg=name
            )
