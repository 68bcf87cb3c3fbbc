"""Weights come out of every usual wrapping; what does not fit is one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models import weights_file
from sharding.errors import InputError


def network(channels: int = 4) -> nn.Module:
    return nn.ModuleDict({"conv": nn.Conv2d(3, channels, 1), "bn": nn.BatchNorm2d(channels)})


TRAINED = {**network().state_dict(), "fc.weight": torch.rand(2, 4)}
OTHER = {key: torch.zeros_like(value) for key, value in TRAINED.items()}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in TRAINED.items()}


@pytest.mark.parametrize(
    "content",
    [
        TRAINED,
        {"state_dict": TRAINED, "epoch": 3},
        {"state_dict": prefixed("module."), "arch": "resnet18", "best_acc1": torch.tensor(0.5)},
        prefixed("module."),
        {"model": TRAINED, "num_classes": 80},
        {"state_dict_ema": TRAINED, "state_dict": OTHER, "args": argparse.Namespace(lr=0.1)},
        {"model_ema": {"module": 1, "state_dict": prefixed("module.")}, "model": OTHER},
        {"state_dict": prefixed("model._orig_mod."), "hyper_parameters": {"lr": 1}},
        {"n_averaged": torch.tensor(3), **prefixed("module.")},
        {key: value for key, value in TRAINED.items() if "num_batches" not in key},
    ],
)
def test_wrapped_weights_load(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    into = network()
    weights_file.load(into, str(tmp_path / "w.pth"), ("fc",))
    assert torch.equal(into["conv"].weight, TRAINED["conv.weight"])


@pytest.mark.timeout(60)
def test_a_wrapping_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="no weights"):
        weights_file.load(network(), str(tmp_path / "w.pth"), ())


def test_safetensors_load(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(TRAINED, tmp_path / "w.safetensors")
    into = network()
    weights_file.load(into, str(tmp_path / "w.safetensors"), ("fc",))
    assert torch.equal(into["bn"].weight, TRAINED["bn.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: network(5).state_dict(),
            r"conv.weight does not fit the backbone: \(5, 3, 1, 1\) in",
        ),
        (lambda: {**TRAINED, "more": torch.zeros(1)}, "1 entries .* more is not of it"),
        (lambda: {"conv.bias": torch.zeros(4)}, "bn.bias is missing"),
        (network, "it holds Python objects"),
        (lambda: list(TRAINED.items()), "it holds a list"),
        (lambda: {"epoch": 3}, "no weights"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, content: Callable[[], Any], message: str
) -> None:
    torch.save(content(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message) as refused:
        weights_file.load(network(), str(tmp_path / "w.pth"), ("fc",))
    assert "\n" not in str(refused.value)
