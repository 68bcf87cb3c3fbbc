"""What a training run and an evaluation are: frozen, validated, complete enough to repeat.

Free of torch, so that a job shows its help at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.graph import Augmentation, Crop
from pipeline.schedule import Schedule
from sharding.errors import InputError

# Fields that may differ between the first command and the one that resumes it: they change how
# far or where the run goes, not what it computes.
RESUMABLE = frozenset(
    {
        "epochs",
        "workers",
        "parallel",
        "cpus_per_worker",
        "keep_checkpoints",
        "candidates_per_epoch",
        "checkpoint_every",
        "async_validation",
        "profile",
        "log_model",
        "cache",
        "cache_gb",
        "experiment",
    }
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
            if getattr(self, name) < 1:
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
    antialias: bool = True
    """Filter before shrinking, as the paper's code does; off is cheaper, for training images."""

    def __post_init__(self) -> None:
        for name in ("image_size", "batch_size", "shuffle_buffer"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", fix="pass a positive number")
        if not 0 < self.smallest_crop <= 1 or not 0 <= self.cutout < 1:
            raise InputError(
                f"smallest crop {self.smallest_crop:g}, cutout {self.cutout:g}",
                fix="both are shares of the image, below 1",
            )
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
            antialias=self.antialias,
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
        if self.learning_rate <= 0 or self.head_multiplier <= 0 or self.epochs < 1:
            raise InputError(
                f"learning rate {self.learning_rate:g} x {self.head_multiplier:g}, "
                f"{self.epochs} epochs",
                fix="pass positive values",
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The same configuration and name continue the same run."""

    dataset: str
    """Dataset directory (made by jobs/shard_openimages.py) that every worker sees, or a URL."""
    name: str = ""
    """Run name; by default made from method, BoostLU, backbone and seed."""
    storage: str = "runs"
    """Where runs are kept: a directory that every worker sees, or a bucket URL."""
    experiment: str = "openimages-v3"
    """MLflow experiment."""
    cache: str = "~/.cache/openimages-boostlu"
    """Where a dataset from a bucket is copied to, on each node's own disk."""
    cache_gb: float = 500.0
    """Bound of that directory; what was not used for longest makes room."""
    labels: str | None = None
    """Label version (annotation dump); by default the dataset's own."""
    method: str = "ll-r"
    """Loss: see `pipeline.methods`."""
    method_options: tuple[str, ...] = ()
    """Options of the method as name=value, for example delta_rel=0.5."""
    workers: str = "1"
    """Training processes, one per GPU where there are any; 1:4 is elastic."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Each worker holds the whole network (ddp), or a part of it (fsdp: large backbones)."""
    cpus_per_worker: int | None = None
    """Threads of a worker (decoding, and the model without a GPU); default: an even share."""
    seed: int = 0
    """Of initialisation, order and augmentation."""
    max_steps: int | None = None
    """Stop each epoch after this many steps (for a quick look)."""
    keep_checkpoints: int = 2
    """Best checkpoints kept, by validation mAP; the latest is always kept too."""
    checkpoint_every: int | None = None
    """Steps between checkpoints within an epoch; by default there is one at each epoch's end."""
    profile: bool = False
    """Trace a few steps of the first epoch on the first worker (profile/trace.json.gz)."""
    async_validation: bool = False
    """Validate in a task of its own while training goes on; it needs resources of one worker."""
    log_model: Literal["link", "copy", "off"] = "link"
    """The best checkpoint as MLflow model: a link to it, with its weights uploaded, or not."""
    candidates_per_epoch: int = 1000
    """Unobserved entries of largest loss kept per epoch for the label audit; 0 keeps none."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        low, high = self.worker_range
        if any(self.data.batch_size % workers for workers in range(low, high + 1)):
            raise InputError(
                f"batch size {self.data.batch_size} does not divide over {self.workers} workers",
                fix="make --batch-size, which counts all workers, a multiple of --workers",
            )
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise InputError(
                f"a checkpoint every {self.checkpoint_every} steps", fix="pass 1 or more"
            )
        if self.candidates_per_epoch < 0:
            raise InputError(
                f"{self.candidates_per_epoch} candidates per epoch", fix="pass 0 or more"
            )
        parse_options(self.method_options)

    @property
    def worker_range(self) -> tuple[int, int]:
        """(fewest, most) workers."""
        try:
            parts = [int(part) for part in self.workers.split(":")]
        except ValueError:
            parts = []
        if not 1 <= len(parts) <= 2 or min(parts) < 1 or parts[0] > parts[-1]:
            raise InputError(
                f"workers is {self.workers!r}",
                fix="pass a number such as 2, or a range such as 1:4",
            )
        return parts[0], parts[-1]

    @property
    def run_name(self) -> str:
        """``name``, or one made from what the run is, so that repeating a command finds it."""
        boost = f"boostlu-{self.model.alpha_train:g}-{self.model.alpha_infer:g}"
        return self.name or f"{self.method}-{boost}-{self.model.backbone}-seed{self.seed}"

    @property
    def epochs(self) -> int:
        """Passes over the training split."""
        return self.optimizer.epochs

    def flat(self) -> dict[str, Any]:
        """Every leaf by dotted name, for MLflow parameters and for comparing runs."""
        return _flatten(dataclasses.asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values as JSON has them; the inverse of `from_dict`."""
        return {**dataclasses.asdict(self), "method_options": list(self.method_options)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> TrainConfig:
        """Rebuild a configuration that was stored with a run or a checkpoint."""
        return cls(
            **{
                **raw,
                "method_options": tuple(raw["method_options"]),
                "model": ModelConfig(**raw["model"]),
                "data": DataConfig(**raw["data"]),
                "optimizer": OptimizerConfig(**raw["optimizer"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """One evaluation of one checkpoint."""

    checkpoint: str
    """A checkpoint directory, or a run directory (its best checkpoint is taken)."""
    dataset: str
    """Dataset directory with the checkpoint's class list."""
    split: str = "test"
    """Split to score: train, validation or test."""
    labels: str | None = None
    """Label version; by default the dataset's own."""
    rule: str = "boostlu"
    """Which classes count (see docs/evaluation.md): boostlu, imcl or csl."""
    batch_size: int = 64
    """Images per step and worker."""
    workers: int | None = None
    """Parallel workers; default: one per GPU, else one per two CPUs."""
    experiment: str | None = None
    """MLflow experiment; default: the training run's."""
    intervals: int = 0
    """Bootstrap replicates for 95 % intervals (200 is usual); 0 leaves them out."""
    against: str | None = None
    """Another evaluation of the same split, as MLflow run id or scores.parquet: the difference."""
    attribution: int = 200
    """Images whose maps' scores are counted (the paper's analysis figure); 0 leaves it out."""
    boxes: str | None = None
    """CSV of boxes of the split (`annotations-human-bbox.csv`): adds the pointing game."""
    register: str | None = None
    """Upload the model and make it the next version of this registered model; alias: best."""


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Turn ("delta_rel=0.5", "detach=true") into keyword arguments.

    Raises:
        InputError: an option is not of the form name=value.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"method option {option!r} is not name=value", fix="write name=value")
        parsed[name] = _literal(text)
    return parsed


def differences(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Leaves that differ, but for those a resumed run may change (`RESUMABLE`)."""
    before, after = old.flat(), new.flat()
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key.split(".")[-1] not in RESUMABLE
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
