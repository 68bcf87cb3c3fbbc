"""Where a rank stands within an epoch, so that it can go on there after a kill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.collector import Collector
from pipeline.loop import Pause
from pipeline.methods import Method


@dataclass(frozen=True, kw_only=True)
class Position:
    """One rank between two steps of an epoch.

    Attributes:
        at: the steps done, and what was measured of them.
        reader: DALI's checkpoint (`pipeline.loader.Epoch.position`).
        random: states of torch's generators: of the host, and of the GPU where there is one.
        pending: what the method gathered on this rank.
        candidates: what the label audit gathered on this rank.
    """

    at: Pause
    reader: bytes
    random: tuple[torch.Tensor, ...]
    pending: dict[str, Any]
    candidates: dict[str, Any]

    @classmethod
    def now(
        cls,
        *,
        at: Pause,
        reader: bytes,
        method: Method,
        candidates: Collector,
        device: torch.device,
    ) -> Position:
        """The position of this process."""
        random = [torch.get_rng_state()]
        if device.type == "cuda":
            random.append(torch.cuda.get_rng_state(device))
        return cls(
            at=at,
            reader=reader,
            random=tuple(random),
            pending=method.pending_state(),
            candidates=candidates.state_dict(),
        )

    def restore(self, method: Method, candidates: Collector, device: torch.device) -> None:
        """Bring this process there, but for its reader."""
        torch.set_rng_state(self.random[0])
        if device.type == "cuda" and len(self.random) > 1:
            torch.cuda.set_rng_state(self.random[1], device)
        method.load_pending_state(self.pending)
        candidates.load_state_dict(self.candidates)

    def state_dict(self) -> dict[str, Any]:
        """As plain tensors, numbers and lists, which `torch.load` takes without trust."""
        return {
            "step": self.at.step,
            "images": self.at.images,
            "meter": self.at.meter,
            "reader": torch.from_numpy(np.frombuffer(self.reader, np.uint8).copy()),
            "random": list(self.random),
            "pending": self.pending,
            "candidates": self.candidates,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Position:
        """The inverse of `state_dict`."""
        return cls(
            at=Pause(step=state["step"], images=state["images"], meter=state.get("meter")),
            reader=state["reader"].numpy().tobytes(),
            random=tuple(state["random"]),
            pending=state["pending"],
            candidates=state.get("candidates", {}),
        )
