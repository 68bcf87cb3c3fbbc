"""Backbone, 1x1 convolution, BoostLU, spatial mean (paper section 4, equations 2 and 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.config import ModelConfig
from pipeline.head import CamHead
from sharding.errors import InputError

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# ImageNet statistics, in the 0..255 range that images leave the loader in.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class CamNet(nn.Module):
    """A network whose class activation maps are its classifier.

    Args:
        backbone: maps (B, 3, H, W) to features (B, D, H/32, W/32).
        head: the CAM head over D features.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, head: CamHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        """uint8 RGB images (B, H, W, 3) to fp32 logits (B, K)."""
        return self.head(self.features(images_BHWC))

    def features(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        """uint8 RGB images (B, H, W, 3) to backbone features (B, D, H/32, W/32)."""
        # The permuted view of NHWC bytes already is channels_last: no copy, faster convolutions.
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).to(self.mean.dtype)
        return self.backbone((images_BCHW - self.mean) / self.std)


def build(config: ModelConfig, num_classes: int) -> CamNet:
    """Make the network of a configuration, with its initial weights.

    Raises:
        InputError: unknown backbone or weights name, or a weights file that does not fit.
    """
    import torchvision

    if config.backbone not in BACKBONES:
        raise InputError(
            f"no backbone {config.backbone!r}", fix=f"choose one of {', '.join(BACKBONES)}"
        )
    resnet = torchvision.models.get_model(config.backbone, weights=_enum_weights(config))
    if config.weights and Path(config.weights).is_file():
        _load_file(resnet, config.weights)
    in_features = resnet.fc.in_features
    # children()[:-2] drops the pooling and the classifier: stride 32, 448 px -> 14 x 14.
    backbone = nn.Sequential(*list(resnet.children())[:-2])
    head = CamHead(
        in_features,
        num_classes,
        alpha_train=config.alpha_train,
        alpha_infer=config.alpha_infer,
    )
    if config.compile:
        backbone.compile()
    return CamNet(backbone, head).to(memory_format=torch.channels_last)


def parameter_groups(model: CamNet, learning_rate: float, head_multiplier: float) -> list[dict]:
    """Adam's groups: the backbone at ``learning_rate``, the head at a multiple of it."""
    return [
        {"params": list(model.backbone.parameters()), "lr": learning_rate},
        {"params": list(model.head.parameters()), "lr": learning_rate * head_multiplier},
    ]


def seed_everything(seed: int) -> None:
    """Seed torch and numpy; the same initial weights on every rank."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def _enum_weights(config: ModelConfig) -> object | None:
    import torchvision

    if not config.weights or Path(config.weights).is_file():
        return None
    enum = torchvision.models.get_model_weights(config.backbone)
    if config.weights not in enum.__members__:
        raise InputError(
            f"weights {config.weights!r} is neither a file nor a name for {config.backbone}",
            fix=f"pass a state-dict file or one of {', '.join(enum.__members__)}",
        )
    return enum[config.weights]


def _load_file(resnet: nn.Module, path: str) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean the same to the user
        reason = str(error).splitlines()[0]
        raise InputError(
            f"not a state dict ({reason})", file=path, fix="save one with torch.save(state_dict)"
        ) from None
    state = {k: v for k, v in state.items() if not k.startswith("fc.")}
    missing, unexpected = resnet.load_state_dict(state, strict=False)
    wrong = [*unexpected, *(name for name in missing if not name.startswith("fc."))]
    if wrong:
        raise InputError(
            f"{len(wrong)} entries do not fit the backbone, the first is {wrong[0]}",
            file=path,
            fix="pass weights of the same backbone",
        )
