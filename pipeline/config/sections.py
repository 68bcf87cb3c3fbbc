"""Define the parts of a training configuration: network, data, optimiser.

Free of torch, so that a job shows its help at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import tyro

from sharding.errors import InputError, unknown

MethodName = Literal[
    "full",
    "an",
    "ls",
    "wan",
    "epr",
    "iu",
    "asl",
    "hill",
    "splc",
    "role",
    "role-li",
    "em",
    "em-apl",
    "vlpl",
    "gr",
    "ll-r",
    "ll-ct",
    "ll-cp",
    "p-asl",
    "curriculum",
    "imcl",
    "cnn-rnn",
]
"""Every training method, in the order of the documentation; `pipeline.methods` makes them."""
Crop = Literal["squash", "random-resized"]
Head = Literal["cam", "ml-decoder"]
Schedule = Literal["constant", "cosine", "one-cycle"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
HARDWARE_SHARE = 0.9


def refuse_outside(options: object, intervals: Mapping[str, str]) -> None:
    """Refuse the first option whose value is outside its interval, such as ``"[0, 1)"``.

    NaN is outside every interval; None means that an option is not used.

    Raises:
        InputError: naming the option, its value and the flag to correct.
    """
    for name, interval in intervals.items():
        value = getattr(options, name)
        if value is None:
            continue
        low, high = (float(bound) for bound in interval[1:-1].split(","))
        above = low <= value if interval[0] == "[" else low < value
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            flag = name.replace("_", "-")
            raise InputError(f"{name} is {value:g}", fix=f"pass --{flag} {_in_words(interval)}")


def refuse_unknown(kind: str, value: str | None, known: Any) -> None:
    """Refuse a value that is none of a Literal's, which the message lists; None is no value.

    Args:
        kind: what the value is, for the message.
        value: as given.
        known: a ``Literal[...]`` type.

    Raises:
        InputError: it is not among them.
    """
    if value is not None and value not in get_args(known):
        raise unknown(kind, value, get_args(known))


def _in_words(interval: str) -> str:
    low, high = (bound.strip() for bound in interval[1:-1].split(","))
    if high != "inf":
        return f"in {interval}"
    return f"{low} or more" if interval[0] == "[" else f"above {low}"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: backbone, 1x1 convolution (CAM), BoostLU, spatial mean; or another head."""

    backbone: str = "resnet50"
    """A torchvision network (resnet50, convnext_tiny, ...), or timm/<name>."""
    weights: str | None = None
    """A torchvision weights name (IMAGENET1K_V1), timm's "pretrained", or a file, such as
    model.pt of a checkpoint; by default none, random ones."""
    head: Head = "cam"
    """cam, or ml-decoder: attention with a query per group of classes, without maps or BoostLU."""
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
        slopes = {"alpha_train": "[1, inf)", "alpha_infer": "[1, inf)"}
        refuse_outside(self, {**slopes, "dropout": "[0, 1)", "label_graph": "[0, inf)"})
        refuse_unknown("head", self.head, Head)
        if self.head != "cam" and (self.label_graph or max(self.alpha_train, self.alpha_infer) > 1):
            raise InputError(
                f"head {self.head} has no activation maps for BoostLU, and no label graph",
                fix="pass --alpha-train 1 --alpha-infer 1 and no --label-graph, or --head cam",
            )

    @property
    def head_in_words(self) -> str:
        """What scores the classes, for plans and cards."""
        if self.head != "cam":
            return "an ML-Decoder head"
        return f"BoostLU {self.alpha_train:g} in training and {self.alpha_infer:g} in inference"


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to the pixels of a training image.

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
        sizes = dict.fromkeys(("image_size", "batch_size", "shuffle_buffer"), "[1, inf)")
        shares = {"smallest_crop": "(0, 1]", "cutout": "[0, 1)", "hardware_share": "[0, 1]"}
        refuse_outside(self, {**sizes, **shares, "rand_augment": "[0, 30]"})

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

    learning_rate: Annotated[float, tyro.conf.arg(aliases=("--lr",))] = 1e-5
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
    """Largest gradient norm; by default any."""
    precision: Precision = "fp32"
    """Of forward and backward; losses and scores are fp32 always. auto: bf16 if the processor of
    the machine that starts the run multiplies in it (AMX), else fp32."""
    micro_batches: int = 1
    """Parts a worker's batch is computed in to save memory; masks and loss do not depend on it."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which is then validated and kept; default: none."""

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("epochs", "micro_batches"), "[1, inf)")
        rates = dict.fromkeys(("learning_rate", "head_multiplier"), "(0, inf)")
        shares = {"warmup": "[0, 1)", "ema_decay": "(0, 1)"}
        others = {"weight_decay": "[0, inf)", "clip_norm": "(0, inf]"}
        refuse_outside(self, {**counts, **rates, **shares, **others})

    @property
    def rate_is_constant(self) -> bool:
        """Whether the learning rate does not depend on how many epochs there are."""
        return self.schedule == "constant" and not self.warmup
