"""Build the network: backbone, 1x1 convolution, BoostLU, spatial mean (paper section 4).

Or, in place of all but the backbone, another head.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from pipeline.config.sections import ModelConfig
from pipeline.models import backbones, weights_file
from pipeline.models.backbones import Backbone
from pipeline.models.cam_head import CamHead
from pipeline.models.label_graph import GraphHead
from pipeline.models.ml_decoder import MlDecoder

Head = CamHead | MlDecoder
"""What scores the classes; a `CamHead` by activation maps."""


class CamNet(nn.Module):
    """Classify images by class activation maps, or by another head over features.

    Args:
        backbone: with the mean and standard deviation that its weights expect; both are part of
            the state, so that a checkpoint keeps those that it was trained with.
        head: over D features.
        dropout: share of the feature channels dropped before the head in training.
        compiled: compile the backbone, for any number of images above 1.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, backbone: Backbone, head: Head, dropout: float = 0.0, *, compiled: bool = False
    ) -> None:
        super().__init__()
        self.backbone = _channels_last(backbone.network)
        self.head = head
        self.dropout = nn.Dropout2d(dropout)
        self._frozen, self._compiled = False, compiled
        if compiled:
            # Not the head: its 1x1 weights have two equally valid strides, and DDP warns when the
            # gradient picks the other one.
            self.backbone.compile()
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1))

    @property
    def has_maps(self) -> bool:
        """Whether the head scores by class activation maps."""
        return isinstance(self.head, CamHead)

    def forward(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        """Compute fp32 logits (B, K) of uint8 RGB images (B, H, W, 3)."""
        return self.head(self.dropout(self.features(images_BHWC)))

    def freeze_backbone(self, frozen: bool) -> None:
        """Freeze the backbone in evaluation mode, or let it train again."""
        self._frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> CamNet:
        """Set training or evaluation mode; a frozen backbone stays in the latter."""
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self

    def features(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        """Compute backbone features (B, D, h, w) of uint8 RGB images (B, H, W, 3)."""
        normal_BCHW = normalised(images_BHWC, self.mean, self.std)
        if self._compiled:  # else an epoch's last batch would compile everything again
            torch._dynamo.maybe_mark_dynamic(normal_BCHW, 0)
        if not self._frozen:
            return self.backbone(normal_BCHW)
        with torch.no_grad():
            features_BDHW = self.backbone(normal_BCHW)
        # DDP waits for a gradient of every parameter: these are 0. FSDP does not, and its shards
        # are no part of this sum.
        whole = [p for p in self.backbone.parameters() if not isinstance(p, DTensor)]
        return features_BDHW + 0 * sum(p.sum() for p in whole)


def _channels_last(network: nn.Module) -> nn.Module:
    """Lay out the weights of 2-D convolutions for channels that are last in memory.

    ``network.to(memory_format=...)`` fails on those of other dimensions, such as a lambda layer's.
    """
    for weights in network.parameters():
        if weights.dim() == 4:
            weights.data = weights.data.contiguous(memory_format=torch.channels_last)
    return network


def normalised(images_BHWC: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Normalise uint8 images (B, H, W, 3) to (B, 3, H, W), channels last in memory.

    Args:
        images_BHWC: RGB.
        mean: of each channel, in 0..255, any shape of 3 elements; its dtype is the result's.
        std: likewise.
    """
    W = images_BHWC.shape[2]
    # Whole rows at a time: a CPU has no vector instructions for innermost loops of 3 channels.
    mean_V, std_V = mean.flatten().repeat(W), std.flatten().repeat(W)
    rows_BHV = images_BHWC.flatten(2).to(mean.dtype).sub_(mean_V).div_(std_V)
    return rows_BHV.unflatten(2, (W, 3)).permute(0, 3, 1, 2)


def build(config: ModelConfig, num_classes: int, image_size: int = 224) -> CamNet:
    """Make the network of a configuration, with its initial weights.

    Those of a network trained here may be of another class list: all but its head is taken.

    Args:
        config: of the network.
        num_classes: K.
        image_size: side in pixels that it has to take.

    Raises:
        InputError: as of `backbones.build` and `weights_file.load`.
    """
    file = config.weights if config.weights and Path(config.weights).is_file() else None
    ours = file if file and weights_file.is_ours(file) else None
    backbone = backbones.build(config.backbone, None if ours else config.weights, image_size)
    head = _head(config, backbone.channels, num_classes)
    model = CamNet(backbone, head, config.dropout, compiled=config.compile)
    if ours:
        weights_file.load(model, ours, ("head",))
    return model


def _head(config: ModelConfig, channels: int, num_classes: int) -> Head:
    if config.head == "ml-decoder":
        return MlDecoder(channels, num_classes)
    slopes = config.alpha_train, config.alpha_infer
    if config.label_graph:
        return GraphHead(channels, num_classes, *slopes, hidden=config.label_graph)
    return CamHead(channels, num_classes, *slopes)


def parameter_groups(model: CamNet, learning_rate: float, head_multiplier: float) -> list[dict]:
    """Make Adam's groups: the backbone at ``learning_rate``, the head at a multiple of it."""
    return [
        {"params": list(model.backbone.parameters()), "lr": learning_rate},
        {"params": list(model.head.parameters()), "lr": learning_rate * head_multiplier},
    ]


def seed_everything(seed: int) -> None:
    """Seed torch and numpy, so that every rank draws the same initial weights."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
