"""Run batch norm on a rank that has no image of a batch, or a single one.

A rank without images still runs the network, on a black image whose logits are dropped, to join
the collectives of the other ranks. Its batch norms must neither count that image nor wait for it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.ranks import has_group

Forward = Callable[[torch.Tensor], torch.Tensor]


@contextlib.contextmanager
def of_few_images(network: nn.Module, images: int) -> Iterator[None]:
    """Keep batch norm from counting what is no batch; with two images or more, change nothing.

    Args:
        network: runs forward within the block.
        images: that count. With none, every norm uses its running statistics and leaves them as
            they are. With one, so does a norm that gets a single value per channel, which has no
            variance; torch raises there.
    """
    if images > 1:
        yield
        return
    modules = list(network.modules())
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    compiled = any(module._compiled_call_impl is not None for module in modules)
    for norm in norms:
        own = functools.partial(_forward, norm, norm.forward, images == 0)
        norm.forward = own  # type: ignore[method-assign]
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        for norm in norms:
            del norm.forward  # the class's own is behind it


def _forward(norm: _BatchNorm, forward: Forward, is_empty: bool, x: torch.Tensor) -> torch.Tensor:
    """Run one norm; ``forward`` is its own."""
    is_lone = x.numel() == x.shape[1]
    if not (norm.training and (is_empty or is_lone)):
        return forward(x)
    ranks = torch.distributed.get_world_size() if has_group() else 1
    if ranks == 1 or not isinstance(norm, nn.SyncBatchNorm):
        return _by_running_statistics(norm, forward, x)
    if is_lone and not is_empty:
        return _joined(norm, forward, x)
    # The other ranks wait for this one's count, which is 0; float32 as their sums are.
    joined = _joined(norm, forward, x[:0].float()).sum()
    return _by_running_statistics(norm, forward, x) + joined.to(x.dtype)


def _joined(norm: _BatchNorm, forward: Forward, x: torch.Tensor) -> torch.Tensor:
    """Run a norm over all ranks, which gives 0 / 0 as variance if they have one value in all."""
    before = norm.running_var
    assert before is not None
    kept = before.clone()
    y = forward(x)
    before.copy_(torch.where(before.isfinite(), before, kept))
    return y


def _by_running_statistics(norm: _BatchNorm, forward: Forward, x: torch.Tensor) -> torch.Tensor:
    norm.training = False
    try:
        return forward(x)
    finally:
        norm.training = True
