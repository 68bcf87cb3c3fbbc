"""Hold what training changes on one rank: network, optimizer, position within an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from pipeline.audit.collector import Collector
from pipeline.config.train import TrainConfig
from pipeline.methods import Method
from pipeline.models import backbones, cam_net
from pipeline.training import distributed
from pipeline.training.loop import EpochPosition
from pipeline.training.step import (
    RandomState,
    TrainStep,
    moving_average,
    random_state,
    set_random_state,
)


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Names one process of a training, and what it computes with.

    Attributes:
        device: where it trains.
        threads: for decoding.
        number: from 0; the first one reports for all.
        world_size: number of ranks.
    """

    device: torch.device
    threads: int
    number: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process reports and saves for all."""
        return self.number == 0


class TrainState:
    """Holds the trained network, its moving average and optimizer, whole (DDP) or cut (FSDP).

    Args:
        config: of the run.
        num_classes: K.
        device: where it is trained.
    """

    def __init__(self, config: TrainConfig, num_classes: int, device: torch.device) -> None:
        self._config, self._num_classes = config, num_classes
        model = cam_net.build(config.model, num_classes, config.data.image_size).to(device)
        if config.model.sync_batchnorm and device.type == "cuda":
            model = backbones.synchronised(model)
        self.model = model
        self.averaged = moving_average(model, config.optimizer.ema_decay)
        if config.parallel == "fsdp":
            distributed.shard(model, device)
            if self.averaged is not None:
                distributed.shard(self.scored, device)
        groups = cam_net.parameter_groups(
            model, config.optimizer.learning_rate, config.optimizer.head_multiplier
        )
        # On a CPU its roundings depend on where a weight stands in memory, which FSDP changes.
        fused = device.type == "cuda" or config.parallel == "ddp"
        self.optimizer = torch.optim.Adam(
            groups, weight_decay=config.optimizer.weight_decay, fused=fused
        )

    @property
    def scored(self) -> cam_net.CamNet:
        """The network that is validated and kept: the moving average if there is one."""
        return self.model if self.averaged is None else cast(cam_net.CamNet, self.averaged.module)

    def runnable(self, network: cam_net.CamNet) -> cam_net.CamNet:
        """Make one of the two networks runnable on a rank alone (`distributed.runnable`)."""
        return distributed.runnable(network, self._config, self._num_classes)

    def load(self, state: dict[str, Any]) -> None:
        """Restore model and optimizer from `gather`, by any number of ranks, under DDP or FSDP."""
        distributed.load(self.model, state["model"])
        distributed.load_optimizer(self.optimizer, state["optimizer"])

    def gather(self, step: TrainStep, *, keep: bool) -> tuple[Any, dict[str, Any]]:
        """Gather (weights of `scored`, states of model, optimizer and step) from all shards.

        Every rank calls it; those that do not ``keep`` the result save its memory.
        """
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "step": step}
        scored = distributed.gather(self.scored.state_dict(), keep=keep)
        return scored, {
            name: distributed.gather(part.state_dict(), keep=keep) for name, part in parts.items()
        }


@dataclass(frozen=True, kw_only=True)
class RankState:
    """Holds the state of one rank between two steps of an epoch.

    Attributes:
        position: the steps done, and what was measured since the last statistics.
        reader: DALI's checkpoint (`pipeline.data.labels.LabelledEpoch.position`).
        random: of torch's generators (`pipeline.training.step.random_state`).
        pending: what the method gathered on this rank.
        candidates: what the label audit gathered on this rank.
    """

    position: EpochPosition
    reader: bytes
    random: RandomState
    pending: dict[str, Any]
    candidates: dict[str, Any]

    @classmethod
    def capture(
        cls,
        position: EpochPosition,
        reader: bytes,
        method: Method,
        collector: Collector,
        device: torch.device,
    ) -> RankState:
        """Copy the state of this process."""
        return cls(
            position=position,
            reader=reader,
            random=random_state(device),
            pending=method.pending_state(),
            candidates=collector.state_dict(),
        )

    def restore(self, method: Method, collector: Collector, device: torch.device) -> None:
        """Bring this process into the state, except for its reader."""
        set_random_state(self.random, device)
        method.load_pending_state(self.pending)
        collector.load_state_dict(self.candidates)

    def state_dict(self) -> dict[str, Any]:
        """Convert to tensors, numbers and lists, which `torch.load` reads as plain data."""
        return {
            "step": self.position.step,
            "images": self.position.images,
            "meter": self.position.meter,
            "reader": torch.from_numpy(np.frombuffer(self.reader, np.uint8).copy()),
            "random": list(self.random),
            "pending": self.pending,
            "candidates": self.candidates,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> RankState:
        """Convert back from `state_dict`."""
        return cls(
            position=EpochPosition(
                step=state["step"], images=state["images"], meter=state["meter"]
            ),
            reader=state["reader"].numpy().tobytes(),
            random=tuple(state["random"]),
            pending=state["pending"],
            candidates=state["candidates"],
        )
