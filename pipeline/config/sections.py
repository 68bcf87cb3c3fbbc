"""The parts of a training configuration: network, data, optimiser.

Free of torch, so that a job shows its help at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sharding.errors import InputError

MethodName = Literal[
    "full",
    "an",
    "ls",
    "wan",
    "epr",
    "iu",
    "asl",
    "role",
    "role-li",
    "em",
    "em-apl",
    "ll-r",
    "ll-ct",
    "ll-cp",
    "p-asl",
    "curriculum",
    "imcl",
    "cnn-rnn",
]
"""Every training method, in the order of the documentation; `pipeline.methods` makes them."""
HARDWARE_SHARE = 0.9


def refuse_less(options: object, least: Mapping[str, float]) -> None:
    """Refuse options below their bounds, and infinite ones; what is None is not asked for.

    Raises:
        InputError: naming the first of them.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not bound <= value < math.inf:
            raise InputError(
                f"{name} is {value}", fix=f"pass --{name.replace('_', '-')} {bound} or more"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: backbone, 1x1 convolution (CAM), BoostLU, spatial mean."""

    backbone: str = "resnet50"
    """A torchvision network (resnet50, convnext_tiny, ...), or timm/<name>."""
    weights: str | None = None
    """A torchvision weights name (IMAGENET1K_V1), timm's "pretrained", a file, or none."""
    alpha_train: float = 5.0
    """BoostLU slope for positive attribution scores in training; 1 turns it off."""
    alpha_infer: float = 5.0
    """BoostLU slope in inference; 1 turns it off."""
    dropout: float = 0.0
    """Share of the feature channels dropped before the head in training."""
    label_graph: int = 0
    """Node size of a graph network over classes after the head (curriculum: 1024); 0: none."""
    sync_batchnorm: bool = False
    """Share batch-norm statistics between GPU workers."""
    compile: bool = False
    """Compile the backbone (pays off on long GPU runs)."""

    def __post_init__(self) -> None:
        for name in ("alpha_train", "alpha_infer"):
            if not 1 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"{name} is {getattr(self, name):g}; BoostLU amplifies, so it is at least 1",
                    fix=f"pass --{name.replace('_', '-')} 1 to turn BoostLU off",
                )
        if not 0 <= self.dropout < 1 or self.label_graph < 0:
            raise InputError(
                f"dropout {self.dropout:g}, label_graph {self.label_graph}",
                fix="dropout is a share below 1, label_graph a size or 0",
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How images become batches."""

    image_size: int = 448
    """Both sides, in pixels; images are squashed to it as in the paper's protocol."""
    batch_size: int = 16
    """Images per step over all workers and accumulated micro-batches."""
    shuffle_buffer: int = 1024
    """Samples in a reader's shuffle buffer; the order of tars is reshuffled every epoch as well."""
    flip: bool = True
    """Mirror training images at random."""
    crop: Crop = "squash"
    """Of training images: squash the whole image, or take a random-resized part of it."""
    smallest_crop: float = 0.25
    """Share of the area that the smallest random-resized part has."""
    rand_augment: int = 0
    """Magnitude (1 to 30) of RandAugment's two operations per training image; 0: none."""
    cutout: float = 0.0
    """Side of Cutout's grey square as a share of the image's; 0: none."""
    hardware_share: float = HARDWARE_SHARE
    """Of the training images that a GPU's own JPEG decoder takes, where it has one."""

    def __post_init__(self) -> None:
        for name in ("image_size", "batch_size", "shuffle_buffer"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", fix="pass a positive number")
        if not 0 < self.smallest_crop <= 1 or not 0 <= self.cutout < 1:
            raise InputError(
                f"smallest crop {self.smallest_crop:g}, cutout {self.cutout:g}",
                fix="both are shares of the image, below 1",
            )
        if not 0 <= self.hardware_share <= 1:
            raise InputError(f"hardware share {self.hardware_share:g}", fix="pass 0 to 1")
        if not 0 <= self.rand_augment <= 30:
            raise InputError(f"RandAugment magnitude {self.rand_augment}", fix="pass 0 to 30")

    @property
    def augmentation(self) -> Augmentation:
        """What the loader does to training images."""
        return Augmentation(
            crop=self.crop,
            smallest=self.smallest_crop,
            flip=self.flip,
            rand_augment=self.rand_augment,
            cutout=self.cutout,
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam as in the paper's code: no weight decay, no schedule, the head ten times faster."""

    learning_rate: float = 1e-5
    """Of the backbone."""
    head_multiplier: float = 10.0
    """The head's learning rate as a multiple of the backbone's."""
    weight_decay: float = 0.0
    """Adam's L2 penalty."""
    epochs: int = 10
    """Passes over the training split."""
    schedule: Schedule = "constant"
    """Course of the learning rate: constant (the paper's), cosine or one-cycle."""
    warmup: float = 0.0
    """Share of the training during which the learning rate rises."""
    clip_norm: float | None = None
    """Largest gradient norm."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of forward and backward; losses and scores are fp32 always."""
    micro_batches: int = 1
    """Parts a worker's batch is computed in to save memory; masks and loss do not depend on it."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which is then what is validated and kept."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1 or self.micro_batches < 1:
            raise InputError(
                f"warm-up {self.warmup:g}, {self.micro_batches} micro-batches",
                fix="warm-up is a share below 1, micro-batches at least 1",
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise InputError(f"ema decay {self.ema_decay:g}", fix="pass a value in (0, 1)")
        rates = (self.learning_rate, self.head_multiplier)
        if not all(0 < rate < math.inf for rate in rates) or self.epochs < 1:
            raise InputError(
                f"learning rate {self.learning_rate:g} x {self.head_multiplier:g}, "
                f"{self.epochs} epochs",
                fix="pass positive values",
            )
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight decay {self.weight_decay:g}", fix="pass 0 or more")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(
                f"clip norm {self.clip_norm:g}", fix="pass a positive norm, or leave it out"
            )

    @property
    def rate_is_constant(self) -> bool:
        """Whether the learning rate does not depend on how many epochs there are."""
        return self.schedule == "constant" and not self.warmup


Crop = Literal["squash", "random-resized"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may happen to the pixels of a training image.

    Attributes:
        crop: "squash" resizes the whole image; "random-resized" a random part of it.
        smallest: share of the image's area that the smallest random part has.
        flip: mirror at random.
        rand_augment: magnitude (1 to 30) of two random operations per image; 0 for none.
        cutout: side of a grey square at a random place, as a share of the image's; 0 for none.
    """

    crop: Crop = "squash"
    smallest: float = 0.25
    flip: bool = True
    rand_augment: int = 0
    cutout: float = 0.0


WHOLE_IMAGE = Augmentation(flip=False)

Schedule = Literal["constant", "cosine", "one-cycle"]
