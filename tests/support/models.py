"""Write small untrained checkpoints, for tests of what uses a model."""

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
from pipeline.models.backbones import Backbone
from pipeline.models.cam_head import CamHead
from pipeline.models.cam_net import CamNet
from sharding.manifest import Dataset

SIZE = 64
BACKBONE, FEATURES = "timm/test_resnet", 96
"""A residual network of 0.4 million parameters: a step takes a ninth of ResNet-18's time."""


def cam_net_of(network: torch.nn.Module, features: int, classes: int, alpha: float = 1.0) -> CamNet:
    """A CAM network over any small network that maps images to feature maps."""
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's
    backbone = Backbone(network=network, channels=features, mean=mean, std=std)
    return CamNet(backbone, CamHead(features, classes, alpha))


def write_checkpoint(
    directory: Path, dataset: Path, *, seed: int = 0, run_id: str = "", **model_options: Any
) -> Path:
    """Write a small network for the classes of a dataset, seeing 64 x 64 pixels."""
    opened = Dataset.open(dataset)
    config = TrainConfig(
        dataset=str(dataset),
        model=ModelConfig(**{"backbone": BACKBONE, **model_options}),
        data=DataConfig(image_size=SIZE),
    )
    torch.manual_seed(seed)
    _write(
        directory,
        config,
        opened.classes.mids,
        names=list(opened.classes.names),
        classes_sha256=opened.classes.sha256,
        dataset_digest=opened.digest,
        labels="first",
        mlflow_run_id=run_id,
    )
    return directory


def write_method_checkpoint(
    directory: Path, method: Method, mids: Sequence[str], config: TrainConfig | None = None
) -> checkpoint.Meta:
    """Write a small network for classes of no dataset, with a method's state."""
    config = dataclasses.replace(
        config or TrainConfig(dataset="d"), model=ModelConfig(backbone=BACKBONE)
    )
    return _write(directory, config, mids, method=method.state_dict())


def _write(
    directory: Path, config: TrainConfig, mids: Sequence[str], *, method: Any = None, **known: Any
) -> checkpoint.Meta:
    """Write a checkpoint after an epoch; ``known`` replaces fields of its meta data."""
    meta = {
        "config": config.to_dict(),
        "epoch": 1,
        "images_seen": 96,
        "world_size": 1,
        "classes_sha256": "0" * 64,
        "mids": list(mids),
        "names": list(mids),
        "dataset": config.dataset,
        "dataset_digest": "",
        "labels": "1",
        **known,
    }
    directory.mkdir(parents=True, exist_ok=True)
    weights = cam_net.build(config.model, len(mids)).state_dict()
    training = {} if method is None else {"method": method}
    checkpoint.save(directory, scored=weights, training=training, meta=checkpoint.Meta(**meta))
    return checkpoint.Meta(**meta)
