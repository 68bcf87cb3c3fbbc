"""What steps change on one rank: the network, its moving average, the optimiser's moments.

Where a rank stands within an epoch, so that it can go on there after a kill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from pipeline.audit.collector import Collector
from pipeline.config.train import TrainConfig
from pipeline.methods import Method
from pipeline.models import cam_net
from pipeline.training import distributed
from pipeline.training.loop import Pause
from pipeline.training.step import TrainStep, moving_average


class TrainState:
    """Built from a configuration, whole (DDP) or cut into shards (FSDP), before the first step.

    Args:
        config: of the run.
        num_classes: K.
        device: where it is trained.
    """

    def __init__(self, config: TrainConfig, num_classes: int, device: torch.device) -> None:
        self._config, self._num_classes = config, num_classes
        model = cam_net.build(config.model, num_classes).to(device)
        if config.model.sync_batchnorm and device.type == "cuda":
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model
        self.averaged = moving_average(model, config.optimizer.ema_decay)
        if config.parallel == "fsdp":
            distributed.shard(model, device)
            if self.averaged is not None:
                distributed.shard(self.scored, device)
        groups = cam_net.parameter_groups(
            model, config.optimizer.learning_rate, config.optimizer.head_multiplier
        )
        self.optimizer = torch.optim.Adam(
            groups, weight_decay=config.optimizer.weight_decay, fused=device.type == "cuda"
        )

    @property
    def scored(self) -> cam_net.CamNet:
        """The network that is validated and kept: the moving average where there is one."""
        return self.model if self.averaged is None else cast(cam_net.CamNet, self.averaged.module)

    def runnable(self, network: cam_net.CamNet) -> cam_net.CamNet:
        """Make one of the two networks runnable on a rank alone (`distributed.runnable`)."""
        return distributed.runnable(network, self._config.model, self._num_classes)

    def load(self, state: dict[str, Any]) -> None:
        """Restore model and optimiser from `gathered`, of any number of ranks, cut or whole."""
        distributed.load(self.model, state["model"])
        distributed.load_optimizer(self.optimizer, state["optimizer"])

    def gathered(self, step: TrainStep, *, keep: bool) -> tuple[Any, dict[str, Any]]:
        """(weights of `scored`, states of model, optimiser and step), with shards made whole.

        Every rank joins; those that do not ``keep`` it are spared the memory of shards.
        """
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "step": step}
        scored = distributed.whole(self.scored.state_dict(), keep=keep)
        whole = {
            name: distributed.whole(part.state_dict(), keep=keep) for name, part in parts.items()
        }
        return scored, whole


@dataclass(frozen=True, kw_only=True)
class RankState:
    """One rank between two steps of an epoch.

    Attributes:
        at: the steps done, and what was measured of them.
        reader: DALI's checkpoint (`pipeline.data.loader.Epoch.position`).
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
    ) -> RankState:
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
    def from_state_dict(cls, state: dict[str, Any]) -> RankState:
        """The inverse of `state_dict`."""
        return cls(
            at=Pause(step=state["step"], images=state["images"], meter=state.get("meter")),
            reader=state["reader"].numpy().tobytes(),
            random=tuple(state["random"]),
            pending=state["pending"],
            candidates=state.get("candidates", {}),
        )
