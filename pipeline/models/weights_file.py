"""Load weights from a file, however the training that wrote it wrapped them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharding.errors import InputError
from sharding.log import first_line

_WRAPPINGS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),  # what their authors score, first
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights"),
)
_DEEPEST = 8
"""Wrappings in one another, more than any training writes."""
_PREFIXES = ("module.", "model.", "_orig_mod.")
"""Of all names: DataParallel's, Lightning's and the compiler's, one in another."""
_FIX = "pass weights of the same backbone, saved with torch.save(network.state_dict())"


def load(network: nn.Module, path: str, classifiers: Sequence[str]) -> None:
    """Load a file's weights into a network, all but those of its classifier.

    Args:
        network: from its library, before it is cut.
        path: of a safetensors file, or of a state dict that `torch.save` wrote, as it is or in one
            of the usual wrappings.
        classifiers: names of the children whose weights are left out.

    Raises:
        InputError: it is another kind of file, or holds the weights of another network.
    """
    found = _plain(_read(path), path)
    state = {key: value for key, value in found.items() if key.split(".")[0] not in classifiers}
    expected = {
        key: value
        for key, value in network.state_dict().items()
        if key.split(".")[0] not in classifiers
    }
    wrong = sorted((state.keys() ^ expected.keys()) - _optional(expected))
    if wrong:
        kind = "is missing" if wrong[0] in expected else "is not of it"
        raise InputError(
            f"{len(wrong)} entries do not fit the backbone: {wrong[0]} {kind}", file=path, fix=_FIX
        )
    for key in state:
        if state[key].shape != expected[key].shape:
            theirs, ours = tuple(state[key].shape), tuple(expected[key].shape)
            raise InputError(
                f"{key} does not fit the backbone: {theirs} in the file, {ours} in the network",
                file=path,
                fix=_FIX,
            )
    network.load_state_dict(state, strict=False)


def is_ours(path: str) -> bool:
    """Return whether a file holds a whole `CamNet`: `model.pt` of a checkpoint, or of an export.

    Raises:
        InputError: it holds no weights.
    """
    names = _plain(_read(path), path).keys()
    return {"mean", "std"} <= names and any(name.startswith("backbone.") for name in names)


def _optional(expected: Mapping[str, Any]) -> set[str]:
    """Name counters that weights from before torch 0.4.1 lack."""
    return {key for key in expected if key.endswith(".num_batches_tracked")}


def _read(path: str) -> Any:
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # Many trainings keep their arguments in the file; these are plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError:
        raise InputError(
            "this file needs the package safetensors", file=path, fix="pip install safetensors"
        ) from None
    except Exception as error:  # torch raises many kinds here; all mean the same to the user
        reason = first_line(error, 80)
        if "Weights only load failed" in reason:
            reason = "it holds Python objects, which could run code"
        raise InputError(f"not a state dict ({reason})", file=path, fix=_FIX) from None


def _plain(content: Any, path: str) -> dict[str, torch.Tensor]:
    """Unwrap a state dict: take the tensors, without a prefix that all names share."""
    for _ in range(_DEEPEST):  # one that holds itself has no end
        if not isinstance(content, Mapping):
            break
        inner = [content[name] for name in _WRAPPINGS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        raise InputError(
            f"not a state dict (it holds a {type(content).__name__})", file=path, fix=_FIX
        )
    tensors = {str(key): value for key, value in content.items() if torch.is_tensor(value)}
    tensors.pop("n_averaged", None)  # of torch's moving average
    for prefix in 2 * _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if not tensors:
        raise InputError("not a state dict (it holds no weights)", file=path, fix=_FIX)
    return tensors
