"""Train a network whole on every rank (DDP), or cut into one shard per rank (FSDP).

FSDP is torch's `fully_shard`: each rank holds its part of every parameter, of its gradient and of
Adam's moments, and a block is whole only while it computes. A checkpoint is the same under both:
shards are gathered before it is written and cut again when it is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pipeline.config.train import TrainConfig
from pipeline.methods import Method, WatchesHead
from pipeline.models import cam_net
from pipeline.ranks import has_group
from sharding.errors import InputError

# A block with fewer parameters than this is not worth a collective of its own.
_SMALLEST = 100_000
_CONTAINERS = (nn.Sequential, nn.ModuleList)


def shard(network: cam_net.CamNet, device: torch.device) -> None:
    """Cut a network into one part per rank, in place; make its optimizer afterwards.

    Units are the backbone's blocks, the head, and the rest. A block is a member of a container of
    the backbone: other modules may be used without a call, as attention uses its projections.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    network.to(memory_format=torch.contiguous_format)  # channels_last weights cannot be cut
    for block in [*_blocks(network.backbone), network.head]:
        if sum(parameter.numel() for parameter in block.parameters()) >= _SMALLEST:
            fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def check(parallel: str, method: Method) -> None:
    """Refuse a method that cannot work on shards.

    Raises:
        InputError: a method that reads the head's weights itself.
    """
    if parallel == "fsdp" and isinstance(method, WatchesHead):
        raise InputError(
            "this method scores images with the head's weights itself, and FSDP cuts them",
            fix="pass --parallel ddp",
        )


def gather(state: Any, *, keep: bool = True) -> Any:
    """Gather the shards of a state dict in host memory.

    Every rank calls it; those that do not ``keep`` the result get None for shards, to save memory.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if keep else None
    if isinstance(state, Mapping) and _has_shards(state):
        return {key: gather(value, keep=keep) for key, value in state.items()}
    return state


def load(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load whole tensors into a module, cut as its own are; every rank has all of them."""
    present = module.state_dict()
    module.load_state_dict(
        {name: _cut_like(present.get(name), value) for name, value in state.items()}
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load whole moments into an optimizer, cut as their parameters are."""
    owners = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {name: _cut_like(owners[index], value) for name, value in entries.items()}
        for index, entries in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def runnable(network: cam_net.CamNet, config: TrainConfig, num_classes: int) -> cam_net.CamNet:
    """Make a network that each rank can run alone, with the first rank's running statistics.

    Ranks score unequal numbers of batches, so none may wait for another's shards: of a network that
    is cut every rank gets a whole copy. Every rank calls it.

    Args:
        network: what is trained, or its moving average.
        config: it was built of.
        num_classes: K.
    """
    if isinstance(network, FSDPModule):
        plain = dataclasses.replace(config.model, weights=None, compile=False)
        with torch.random.fork_rng(devices=[]):
            copy = cam_net.build(plain, num_classes, config.data.image_size)
        copy.load_state_dict(gather(network.state_dict()))
        network = copy.to(network.mean.device)
    if has_group():
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
    return network


@contextlib.contextmanager
def unsynchronised(model: nn.Module) -> Iterator[None]:
    """Add up gradients on each rank; the first backward pass after the block sums over ranks."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        with getattr(model, "no_sync", contextlib.nullcontext)():
            yield


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view of this rank's part of a sharded tensor; other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost members of containers that are no containers themselves."""
    for child in module.children():
        if isinstance(child, _CONTAINERS) or not isinstance(module, _CONTAINERS):
            yield from _blocks(child)
        else:
            yield child


def _has_shards(state: Any) -> bool:
    if isinstance(state, Mapping):
        return any(map(_has_shards, state.values()))
    return isinstance(state, DTensor)


def _cut_like(owner: Any, value: Any) -> Any:
    if not isinstance(owner, DTensor) or owner.shape != getattr(value, "shape", None):
        return value
    # Every rank has read the tensor, so none needs to send it.
    whole = value.to(owner.device)
    return distribute_tensor(whole, owner.device_mesh, owner.placements, src_data_rank=None)
