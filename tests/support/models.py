"""Small untrained checkpoints, for tests of what uses a model rather than of what makes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.config.sections import DataConfig, ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.methods import Method
from pipeline.models import cam_net, checkpoint
from sharding.manifest import Dataset

SIZE = 64


def write_checkpoint(
    directory: Path, dataset: Path, *, seed: int = 0, run_id: str = "", **model_options: Any
) -> Path:
    """A ResNet-18 for the classes of ``dataset``, seeing 64 x 64 pixels."""
    opened = Dataset.open(dataset)
    config = TrainConfig(
        dataset=str(dataset),
        model=ModelConfig(backbone="resnet18", **model_options),
        data=DataConfig(image_size=SIZE),
    )
    torch.manual_seed(seed)
    model = cam_net.build(config.model, len(opened.classes)).eval()
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        directory,
        scored=model.state_dict(),
        training={},
        meta=checkpoint.Meta(
            config=config.to_dict(),
            epoch=1,
            images_seen=96,
            world_size=1,
            classes_sha256=opened.classes.sha256,
            mids=list(opened.classes.mids),
            names=list(opened.classes.names),
            dataset=str(dataset),
            dataset_digest=opened.digest,
            labels="first",
            mlflow_run_id=run_id,
        ),
    )
    return directory


def write_method_checkpoint(
    directory: Path, method: Method, mids: Sequence[str], config: TrainConfig | None = None
) -> checkpoint.Meta:
    """A fresh ResNet-18 for classes of any dataset, with a method's state."""
    config = dataclasses.replace(
        config or TrainConfig(dataset="d"), model=ModelConfig(backbone="resnet18")
    )
    meta = checkpoint.Meta(
        config=config.to_dict(),
        epoch=1,
        images_seen=2,
        world_size=1,
        classes_sha256="0" * 64,
        mids=list(mids),
        names=list(mids),
        dataset="d",
        dataset_digest="",
        labels="1",
    )
    directory.mkdir(exist_ok=True)
    model = cam_net.build(config.model, len(mids))
    state = {"method": method.state_dict()}
    checkpoint.save(directory, scored=model.state_dict(), training=state, meta=meta)
    return meta
