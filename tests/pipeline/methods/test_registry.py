"""Every method is made by name; a mistake in a name or option names the valid ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline import methods
from sharding.errors import InputError

REQUIRED: dict[str, dict[str, Any]] = {
    "epr": {"expected_num_pos": 1.5},
    "role": {"expected_num_pos": 1.5},
    "role-li": {"expected_num_pos": 1.5, "linear_epochs": 1},
}


def make(name: str, num_classes: int = 6) -> methods.Method:
    return methods.create(name, num_classes, **REQUIRED.get(name, {}))


def test_unknown_method_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"no method 'lr'.*full, an, ls.*ll-cp"):
        methods.create("lr", 5)


def test_unknown_option_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"no option delta.*its options: delta_rel"):
        methods.create("ll-r", 5, delta=0.5)
    with pytest.raises(InputError, match=r"no option alpha.*its options: none"):
        methods.create("wan", 5, alpha=1)
    with pytest.raises(InputError, match=r"no option group.*its options: delta_rel$"):
        methods.create("ll-r", 5, group=None)


def test_missing_option_is_named() -> None:
    with pytest.raises(InputError, match=r"needs expected_num_pos.*-options expected_num_pos=NUMB"):
        methods.create("epr", 5)


def test_large_loss_runs_as_it_is() -> None:
    default = {name: methods.create(name, 5).delta_rel for name in ("ll-r", "ll-ct", "ll-cp")}
    assert default == {"ll-r": 0.2, "ll-ct": 0.2, "ll-cp": 0.1}


def test_option_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(InputError, match="delta_rel"):
        methods.create("ll-r", 5, delta_rel="much")
    with pytest.raises(InputError, match="epsilon"):
        methods.create("an", 5, epsilon=True)
    methods.create("ll-r", 5, delta_rel=1)  # an integer is a number


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("p-asl", o) for o in ({"mode": "sum"}, {"prior": [0.1]}, {"clip": 1.5})),
        ("p-asl", {"likelihood_topk": -1}),
        *(("curriculum", o) for o in ({"strategy": "x"}, {"normalise": "x"}, {"passes": 1})),
        ("curriculum", {"top": 1.5}),
        *(("em-apl", o) for o in ({"warmup_epochs": 10}, {"theta": 2.0}, {"alpha": -1.0})),
        ("em-apl", {"observed_negatives": "x"}),
        *(("vlpl", o) for o in ({"threshold": 0.0}, {"beta": -1.0}, {"warmup_epochs": -1})),
        ("gr", {"confidence_weight": 1.5}),
        ("iu", {"normalise": "x"}),
        ("cnn-rnn", {"hidden": 0}),
    ],
)
def test_values_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        methods.create(name, 3, **options)


@pytest.mark.parametrize("name", methods.names())
def test_protocol(name: str) -> None:
    method = make(name)
    logits_BK = torch.randn(4, 6, requires_grad=True)
    labels_BK = torch.randint(0 if name == "full" else -1, 2, (4, 6)).to(torch.int8)
    ids_B = torch.tensor([3, -5, 2**62, 0])
    for epoch in (1, 2):
        method.begin_epoch(epoch)
        loss, mask_BK = method.loss(logits_BK, labels_BK, ids_B, torch.rand(4, 6))
        method.end_epoch()
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype is torch.float32
    assert mask_BK.dtype is torch.bool
    assert mask_BK.shape == (4, 6)
    assert not mask_BK[labels_BK >= 0].any(), "observed labels are never modified"
    assert torch.isfinite(logits_BK.grad).all()
    make(name).load_state_dict(method.state_dict())


@pytest.mark.parametrize("name", methods.names())
def test_an_empty_batch_gives_zero(name: str) -> None:
    logits_BK = torch.zeros(0, 6, requires_grad=True)
    method = make(name)
    method.begin_epoch(2)
    labels_BK, ids_B = torch.zeros(0, 6, dtype=torch.int8), torch.zeros(0, dtype=torch.int64)
    loss, mask_BK = method.loss(logits_BK, labels_BK, ids_B, torch.zeros(0, 6))
    loss.backward()
    assert mask_BK.shape == (0, 6)
    assert logits_BK.grad is not None


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(B, 6\)"):
        make("an").loss(torch.zeros(2, 5), torch.zeros(2, 5, dtype=torch.int8))


def test_epochs_count_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        make("an").begin_epoch(0)
