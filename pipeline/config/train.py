"""Define the configuration of a training run: frozen, validated, complete enough to repeat.

Free of torch, so that a job shows its help at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from pipeline.config.sections import (
    DataConfig,
    MethodName,
    ModelConfig,
    OptimizerConfig,
    refuse_outside,
)
from sharding.errors import InputError

# Fields that may differ between the first command and the one that resumes it: they change how
# long or where the run computes, not what; on CPU, workers and their CPUs change how it rounds.
RESUMABLE = frozenset(
    {
        "epochs",
        "workers",
        "parallel",
        "cpus_per_worker",
        "wait_for_workers",
        "keep_checkpoints",
        "candidates_per_epoch",
        "checkpoint_every",
        "async_validation",
        "profile",
        "log_model",
        "cache",
        "cache_gb",
        "experiment",
        "storage",  # the run was found there
    }
)

_INTERVALS = {
    "cache_gb": "[0, inf)",
    "cpus_per_worker": "[1, inf)",
    "wait_for_workers": "[0, inf)",
    "seed": "[0, inf)",
    "max_steps": "[1, inf)",
    "keep_checkpoints": "[1, inf)",
    "checkpoint_every": "[1, inf)",
    "candidates_per_epoch": "[0, inf)",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The same configuration and name continue the same run."""

    dataset: str
    """Dataset directory (made by the job shard) that every worker sees, or a URL."""
    name: Annotated[str, tyro.conf.arg(name="run")] = ""
    """Run: a name in the storage, or a path or URL, whose last part is the name; by default made
    from method, BoostLU, backbone and seed."""
    storage: str = "runs"
    """Where runs are kept: a directory that every worker sees, or a bucket URL."""
    experiment: str = "openimages-v3"
    """MLflow experiment."""
    cache: str = "~/.cache/openimages-boostlu"
    """Where a dataset from a bucket is copied to, on each node's own disk."""
    cache_gb: float = 500.0
    """Bound of that directory; beyond it a dataset is refused."""
    labels: str | None = None
    """Label version (annotation dump); by default the run's, in a new run the dataset's own."""
    confidences: str | None = None
    """Version of machine confidences (reshard --confidences), for methods that use them and as a
    column of the candidates."""
    method: MethodName = "ll-r"
    """How the loss treats unobserved entries; --list methods says it in a line each."""
    method_options: tuple[str, ...] = ()
    """Options of the method as name=value, for example delta_rel=0.5 (docs/methods.md)."""
    workers: str = "1"
    """Training processes, one per GPU where there are any; 1:4 is elastic."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Each worker holds the whole network (ddp), or a part of it (fsdp: large backbones)."""
    cpus_per_worker: int | None = None
    """Threads of a worker (decoding, and the model without a GPU); by default the run's, in a new
    run an even share."""
    wait_for_workers: float | None = None
    """Minutes to wait for nodes that the workers need (default: 30 if an autoscaler starts them),
    and for others to end who use them (default: 30)."""
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
    log_model: Literal["link", "kept", "off"] = "link"
    """Make the best checkpoint an MLflow model, by a link to it; or all that are kept; or none."""
    candidates_per_epoch: int = 1000
    """Unobserved entries of largest loss kept per epoch for the label audit; 0 keeps none."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        low, high = self.worker_range
        needed = math.lcm(*range(low, high + 1))
        if self.data.batch_size % needed:
            raise InputError(
                f"batch size {self.data.batch_size} does not divide over {self.workers} workers",
                fix=f"make --batch-size, which counts all workers, a multiple of {needed}",
            )
        refuse_outside(self, _INTERVALS)
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
        """``name``, or a name made from the settings, so that repeating a command finds its run."""
        head = f"boostlu-{self.model.alpha_train:g}-{self.model.alpha_infer:g}"
        if self.model.head != "cam":
            head = self.model.head
        backbone = self.model.backbone.replace("/", "-")  # a run is one directory
        return self.name or f"{self.method}-{head}-{backbone}-seed{self.seed}"

    @property
    def epochs(self) -> int:
        """Passes over the training split."""
        return self.optimizer.epochs

    def flat(self) -> dict[str, Any]:
        """List every leaf by dotted name, for MLflow parameters and for comparing runs."""
        return _flatten(dataclasses.asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain nested values for JSON; the inverse of `from_dict`."""
        return {**dataclasses.asdict(self), "method_options": list(self.method_options)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> TrainConfig:
        """Rebuild a configuration that was stored with a run or a checkpoint.

        Raises:
            TypeError: it has an option that this version does not know, or is no configuration.
        """
        if not isinstance(raw, Mapping):
            raise TypeError("no table of options")
        if later := sorted(_flatten(raw).keys() - cls(dataset="").flat().keys()):
            raise TypeError(f"it has the option {later[0]}, which this version does not know")
        return cls(
            **{
                **raw,
                "method_options": tuple(raw["method_options"]),
                "model": ModelConfig(**raw["model"]),
                "data": DataConfig(**raw["data"]),
                "optimizer": OptimizerConfig(**raw["optimizer"]),
            }
        )


def differences(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Compare two configurations: (old, new) of each leaf that a resumed run may not change.

    The number of epochs is one of them where the learning rate's schedule depends on it.
    """
    before, after = old.flat(), new.flat()
    resumable = RESUMABLE if old.optimizer.rate_is_constant else RESUMABLE - {"epochs"}
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key.split(".")[-1] not in resumable
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Turn ("delta_rel=0.5", "detach=true", "q=0.01,1") into keyword arguments.

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


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float, _numbers):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
