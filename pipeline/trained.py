"""What steps change on one rank: the network, its moving average, the optimiser's moments."""

from __future__ import annotations

from typing import Any, cast

import torch

from pipeline import model as models
from pipeline import parallel
from pipeline.config import TrainConfig
from pipeline.step import TrainStep, moving_average


class Trained:
    """Built from a configuration, whole (DDP) or cut into shards (FSDP), before the first step.

    Args:
        config: of the run.
        num_classes: K.
        device: where it is trained.
    """

    def __init__(self, config: TrainConfig, num_classes: int, device: torch.device) -> None:
        self._config, self._num_classes = config, num_classes
        model = models.build(config.model, num_classes).to(device)
        if config.model.sync_batchnorm and device.type == "cuda":
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model
        self.averaged = moving_average(model, config.optimizer.ema_decay)
        if config.parallel == "fsdp":
            parallel.shard(model, device)
            if self.averaged is not None:
                parallel.shard(self.scored, device)
        groups = models.parameter_groups(
            model, config.optimizer.learning_rate, config.optimizer.head_multiplier
        )
        self.optimizer = torch.optim.Adam(
            groups, weight_decay=config.optimizer.weight_decay, fused=device.type == "cuda"
        )

    @property
    def scored(self) -> models.CamNet:
        """The network that is validated and kept: the moving average where there is one."""
        return self.model if self.averaged is None else cast(models.CamNet, self.averaged.module)

    def runnable(self, network: models.CamNet) -> models.CamNet:
        """One of the two as each rank can run it alone; see `pipeline.parallel.runnable`."""
        return parallel.runnable(network, self._config.model, self._num_classes)

    def load(self, state: dict[str, Any]) -> None:
        """Restore model and optimiser from `gathered`, of any number of ranks, cut or whole."""
        parallel.load(self.model, state["model"])
        parallel.load_optimizer(self.optimizer, state["optimizer"])

    def gathered(self, step: TrainStep, *, keep: bool) -> tuple[Any, dict[str, Any]]:
        """(weights of `scored`, states of model, optimiser and step), with shards made whole.

        Every rank joins; those that do not ``keep`` it are spared the memory of shards.
        """
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "step": step}
        scored = parallel.whole(self.scored.state_dict(), keep=keep)
        whole = {name: parallel.whole(part.state_dict(), keep=keep) for name, part in parts.items()}
        return scored, whole
