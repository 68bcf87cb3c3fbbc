"""Parse the training command: flags over a preset, a data set's published protocol with any method.

Presets are functions, not files: `ray submit` uploads the job script alone, so everything it
needs must travel inside the package. Flags override a preset, method options are added to its own.
The values, each with its source, are in `pipeline.config.paper_training` and `paper_options`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from pipeline.config import groups, refusals
from pipeline.config.paper_options import ablation, method_options
from pipeline.config.paper_training import (
    LARGE_LOSS,
    PaperDataset,
    Value,
    training_values,
    values,
)
from pipeline.config.sections import (
    DataConfig,
    MethodName,
    ModelConfig,
    OptimizerConfig,
    refuse_unknown,
)
from pipeline.config.train import TrainConfig, parse_options
from sharding.errors import InputError

DEMO = "demo"
PresetName = Literal[PaperDataset, "demo"]
PRESETS: tuple[PresetName, ...] = get_args(PresetName)
PrintForm = Literal["table", "json"]
Listed = Literal["methods", "backbones", "presets"]

_HELP = f"""\n
--preset {{{",".join(PRESETS)}}}
  a data set's published protocol; flags override it. A paper's data set may be
  followed by -ablation-1 to -{len(ablation())}, a row of the paper's ablation
--config FILE.json|FILE.yaml
  options by name, such as a run's config.json; flags override them
--print-config [{{{",".join(get_args(PrintForm))}}}]
  print every value with its source instead of training
--dry-run
  check everything, the first batch included; print the plan instead of training
--headspace
  measure for a minute how fast a worker could train without waiting for data
--list {{{",".join(get_args(Listed))}}}
  list what there is instead of training"""
_SECTIONS = {"model": ModelConfig, "data": DataConfig, "optimizer": OptimizerConfig}
# Shown with the optimiser, but not a field: there is no other.
_ALGORITHM = "algorithm"
_SECTION_OF = {
    field.name: f"{section}."
    for section, kind in _SECTIONS.items()
    for field in dataclasses.fields(kind)
} | {_ALGORITHM: "optimizer."}

_LAPTOP = "for a laptop without GPU, five minutes on two cores"
# A small ResNet from scratch on the procedural demo data, two workers (make demo). With ten layers,
# a stem of three convolutions and average pooling in its shortcuts it learns in six epochs what
# ResNet-18 does in ten, and a step takes two thirds as long.
_DEMO = {
    "dataset": "demo/dataset",
    "experiment": "demo",
    "workers": "2",
    "backbone": "timm/resnet10t",
    "image_size": 96,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "head_multiplier": 1.0,
    "epochs": 6,
    "precision": "auto",
}
_DEMO_DELTA_REL = 0.2


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A configuration, and where its values come from.

    Attributes:
        name: as given to `preset`.
        config: complete but for the dataset directory.
        values: by dotted name as in `TrainConfig.flat`; options as ``method_options.<name>``.
    """

    name: str
    config: TrainConfig
    values: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """A parsed command line of the training job.

    Attributes:
        config: what to train.
        preset: what it started from, if anything.
        print_config: the form to print the configuration in instead of training.
        dry_run: whether to check instead of training.
        headspace: whether to measure instead of training.
        list: what to list instead of training.
    """

    config: TrainConfig
    preset: Preset | None = None
    print_config: PrintForm | None = None
    dry_run: bool = False
    headspace: bool = False
    list: Listed | None = None


def parse(arguments: Sequence[str], description: str, program: str | None = None) -> TrainCommand:
    """Parse flags over a preset's values, or over the defaults.

    Args:
        arguments: of the command line, without the program's name.
        description: what ``--help`` prints above the options.
        program: what it calls the program; None for the script's name.

    Raises:
        InputError: as of `preset`, an unknown flag, or a value that the configuration refuses.
        SystemExit: the help was asked for.
    """
    first = refusals.FirstOptions()
    first.add_argument("--preset")
    first.add_argument("--print-config", nargs="?", const="table")
    first.add_argument("--dry-run", action="store_true")
    first.add_argument("--headspace", action="store_true")
    first.add_argument("--list")
    chosen, rest = first.parse_known_args(arguments)
    refuse_unknown("print-config", chosen.print_config, PrintForm)
    refuse_unknown("list", chosen.list, Listed)
    if chosen.list:
        return TrainCommand(config=TrainConfig(dataset=""), list=chosen.list)
    start = None
    if chosen.preset:
        # Read twice: the preset's values depend on the method.
        first.add_argument("--method")
        start = preset(chosen.preset, first.parse_known_args(arguments)[0].method)
    config = groups.parse(
        TrainConfig,
        start.config if start else None,
        prog=program,
        args=rest,
        more_flags=("--config", "--preset", "--print-config", "--dry-run", "--headspace", "--list"),
        description=description + _HELP,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    config = _with_path_of_run(config)
    return TrainCommand(
        config=_with_options_of(start, config) if start else config,
        preset=start,
        print_config=chosen.print_config,
        dry_run=chosen.dry_run,
        headspace=chosen.headspace,
    )


def preset(name: str, method: str | None = None) -> Preset:
    """Assemble a data set's protocol with a method, by default ll-r.

    Args:
        name: one of `PRESETS`; a paper's may be followed by ``-ablation-<row>``.
        method: one of `MethodName`.

    Raises:
        InputError: no such preset, no such method, or a method for a row of the ablation that has
            another.
    """
    base, _, row = name.partition("-ablation-")
    refuse_unknown("preset", name if row and base == DEMO else base, PresetName)
    if row:
        chosen = _ablation_row(row, method, base)
    else:
        chosen = values("ours", "unless --method says otherwise", method=method or "ll-r")
    name_of_method = chosen["method"].value
    refuse_unknown("method", name_of_method, MethodName)
    dataset = "openimages-v3" if base == DEMO else base
    training = training_values(dataset, name_of_method)
    options = method_options(dataset, name_of_method, training)
    if base == DEMO:
        training = values("ours", _LAPTOP, **_DEMO)
        if name_of_method in LARGE_LOSS:
            options |= values("ours", _LAPTOP, delta_rel=_DEMO_DELTA_REL)
    config, origins = _assemble({**training, **chosen}, options)
    return Preset(name=name, config=config, values=origins)


def _ablation_row(row: str, method: str | None, base: str) -> dict[str, Value]:
    """Method and slopes of BoostLU of a row of the paper's ablation, counted from 1."""
    rows = ablation()
    if row not in map(str, range(1, len(rows) + 1)):
        raise InputError(f"no row {row!r} in the ablation", fix=f"pass 1 to {len(rows)}")
    alpha_train, alpha_infer, method_of_row = rows[int(row) - 1]
    if method not in (None, method_of_row):
        raise InputError(
            f"row {row} of the ablation is of method {method_of_row}, not {method}",
            fix=f"leave out --method, or use --preset {base} with slopes of your own",
        )
    source = f"row {row} of the ablation"
    slopes = {"alpha_train": alpha_train, "alpha_infer": alpha_infer}
    return values("paper", source, method=method_of_row, **slopes)


def _with_path_of_run(config: TrainConfig) -> TrainConfig:
    """Take ``--run runs/NAME`` as storage and name, unless a run of 0.1.0 has all of it as name."""
    given = config.name.rstrip("/")
    parent, slash, name = given.rpartition("/")
    if not slash or _is_in(config.storage, given):
        return dataclasses.replace(config, name=given)
    storage = parent or "/"
    if _absolute(config.storage) not in (_absolute(TrainConfig.storage), _absolute(storage)):
        raise InputError(
            f"--run {config.name} is not in --storage {config.storage}", fix=f"pass --run {name}"
        )
    return dataclasses.replace(config, storage=storage, name=name)


def _is_in(storage: str, name: str) -> bool:
    """Whether a storage has a run of a name with slashes; a bucket's is taken to, unasked."""
    if "://" in name or name.startswith(("/", "~")):
        return False
    return "://" in storage or Path(storage, name, "config.json").expanduser().exists()


def _absolute(location: str) -> str:
    return (
        location.rstrip("/") if "://" in location else os.path.abspath(Path(location).expanduser())
    )


def _with_options_of(start: Preset, config: TrainConfig) -> TrainConfig:
    """Put a preset's method options beneath those of the command line."""
    preset_options = start.config.method_options
    if config.method_options == preset_options:
        return config
    merged = parse_options(preset_options) | parse_options(config.method_options)
    return dataclasses.replace(config, method_options=_as_flags(merged))


def _assemble(
    training: Mapping[str, Value], options: Mapping[str, Value]
) -> tuple[TrainConfig, dict[str, Value]]:
    """Sort values into the sections of a configuration, and keep their sources by dotted name."""
    by_name = {_SECTION_OF.get(name, "") + name: value for name, value in training.items()}
    by_name |= {f"method_options.{name}": value for name, value in options.items()}
    sections: dict[str, dict[str, Any]] = {section: {} for section in ("", *_SECTIONS)}
    for name, value in training.items():
        if name != _ALGORITHM:
            sections[_SECTION_OF.get(name, "").rstrip(".")][name] = value.value
    config = TrainConfig(
        **{"dataset": "", **sections[""]},
        method_options=_as_flags({name: value.value for name, value in options.items()}),
        **{name: section(**sections[name]) for name, section in _SECTIONS.items()},
    )
    return config, by_name


def _as_flags(options: Mapping[str, Any]) -> tuple[str, ...]:
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in options.items()
    }
    return tuple(f"{name}={value}" for name, value in texts.items())
