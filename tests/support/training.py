"""Ranks of a training on the small dataset, without Ray or MLflow."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.cluster.checkpoints import SCORE
from pipeline.config.sections import DataConfig, ModelConfig, OptimizerConfig
from pipeline.config.train import TrainConfig
from pipeline.training.state import Rank
from pipeline.training.worker import Worker
from sharding.manifest import Dataset
from tests.support.models import BACKBONE

EPOCHS = 3
OPTIONS = {
    "epr": ("expected_num_pos=2.0",),
    "role": ("expected_num_pos=2.0",),
    "role-li": ("expected_num_pos=2.0",),
    "em-apl": ("warmup_epochs=1", f"total_epochs={EPOCHS}"),
    **dict.fromkeys(("ll-r", "ll-ct", "ll-cp"), ("delta_rel=1.0",)),
}
CPU = torch.device("cpu")
_NONE: Mapping[str, Any] = {}


class Recorder:
    """A `TrainingLog` that remembers what it is sent."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Any]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls[name].append(arguments)


def worker_for(
    dataset: Path,
    method: str,
    *options: str,
    rank: int = 0,
    world_size: int = 1,
    batch: int = 32,
    network: Mapping[str, Any] = _NONE,
    optimizer: Mapping[str, Any] = _NONE,
    **changes: Any,
) -> Worker:
    """One rank; `OPTIONS` unless others are given; ``changes`` are of its `TrainConfig`."""
    changes = {"candidates_per_epoch": 0, **changes}  # they would go to the working directory
    config = TrainConfig(
        dataset=str(dataset),
        method=method,
        method_options=options or OPTIONS.get(method, ()),
        model=ModelConfig(**{"backbone": BACKBONE, **network}),
        data=DataConfig(image_size=32, batch_size=batch),
        optimizer=OptimizerConfig(**{"learning_rate": 1e-3, "epochs": EPOCHS, **optimizer}),
        **changes,
    )
    return worker_of(config, rank, world_size)


def worker_of(config: TrainConfig, rank: int = 0, world_size: int = 1) -> Worker:
    """One rank of a configured training."""
    return Worker(
        config=config,
        dataset=Dataset.open(config.dataset),
        rank=Rank(number=rank, world_size=world_size, device=CPU, threads=1),
        run_log=Recorder(),
        run_id="run",
    )


def save_run(worker: Worker, directory: Path) -> None:
    """Write a run whose directory is its checkpoint, too, and which MLflow does not know."""
    directory.mkdir(parents=True, exist_ok=True)
    worker.save(str(directory), {SCORE: 0.0})
    (directory / "config.json").write_text(json.dumps(worker.config.to_dict()))
    meta = json.loads((directory / "meta.json").read_text())
    (directory / "meta.json").write_text(json.dumps({**meta, "mlflow_run_id": ""}))


def begun(worker: Worker, latest: Path | None = None) -> Worker:
    """The worker, ready to train from a checkpoint if any; several under DDP are wrapped."""
    model: Any = worker.state.model
    if worker.config.parallel == "ddp" and worker.rank.world_size > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    worker.begin(model, None if latest is None else str(latest))
    return worker


def assert_same_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Every tensor is equal to the last bit."""
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
