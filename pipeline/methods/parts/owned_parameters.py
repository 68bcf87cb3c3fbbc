"""Train parameters that belong to a method and not to the model, inside `loss`.

The trainer's optimizer and DDP know nothing of them. Their gradient is taken from the loss about
to be returned and summed over the ranks, so that all ranks take the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.methods.parts.collectives import Collectives


class OwnedParameters:
    """Named fp32 tensors with an Adam of their own.

    Args:
        initial: equal on all ranks.
        learning_rate: of Adam.
    """

    def __init__(self, initial: Mapping[str, torch.Tensor], *, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self._set(initial)

    def leaves(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Copy the tensors to compute a loss with: they may step before its backward pass."""
        if next(iter(self._masters.values())).device != device:
            state = self.state_dict()
            self._set({name: t.to(device) for name, t in self._masters.items()})
            self.load_state_dict(state)
        return {n: t.detach().clone().requires_grad_() for n, t in self._masters.items()}

    def step(
        self, loss: torch.Tensor, leaves: Mapping[str, torch.Tensor], ranks: Collectives
    ) -> None:
        """Take one Adam step on the gradient of the global loss; every rank joins.

        Args:
            loss: as `loss` returns it, its mean over ranks the global loss.
            leaves: what `leaves` gave for it.
            ranks: who shares the batch.
        """
        gradients = torch.autograd.grad(
            loss, list(leaves.values()), retain_graph=True, allow_unused=True
        )
        for master, gradient in zip(self._masters.values(), gradients, strict=True):
            local = torch.zeros_like(master) if gradient is None else gradient
            master.grad = ranks.sum(local) / ranks.world_size
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and Adam's moments."""
        tensors = {name: t.detach().cpu().clone() for name, t in self._masters.items()}
        return {"tensors": tensors, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the tensors and Adam's moments."""
        device = next(iter(self._masters.values())).device
        self._set({name: t.to(device) for name, t in state["tensors"].items()})
        self._optimizer.load_state_dict(state["optimizer"])

    def _set(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._masters = {n: torch.nn.Parameter(t.detach().clone()) for n, t in tensors.items()}
        self._optimizer = torch.optim.Adam(self._masters.values(), lr=self._learning_rate)
