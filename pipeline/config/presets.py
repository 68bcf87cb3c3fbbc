"""Named configurations: a data set's published protocol, with any method.

Presets are functions, not files: `ray submit` uploads the job script alone, so everything it
needs must travel inside the package. Flags override a preset, method options are added to its own.
The values, each with its source, are in `pipeline.config.paper_options` and `recipes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.paper_training import Value
from pipeline.config.sections import DataConfig, ModelConfig, OptimizerConfig
from pipeline.config.train import TrainConfig, parse_options
from sharding.errors import InputError

PAPERS = ("pascal", "coco", "nuswide", "cub", "openimages-v3")
DEMO = "demo"
PRESETS = (*PAPERS, DEMO)
ABLATION_ROWS = 7
SPELLING = f"{'|'.join(PRESETS)}, or a paper's with -ablation-1 to -{ABLATION_ROWS} behind it"
_SECTIONS = {"model": ModelConfig, "data": DataConfig, "optimizer": OptimizerConfig}
ALGORITHM = "algorithm"
"""Told, but not a field: there is no other."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A configuration, and where its values come from.

    Attributes:
        config: complete but for the dataset directory.
        values: by dotted name as in `TrainConfig.flat`; options as ``method_options.<name>``.
    """

    config: TrainConfig
    values: Mapping[str, Value]


def preset(name: str, method: str | None = None) -> Preset:
    """A data set's protocol with a method, by default ll-r.

        ray submit ray_cluster.yaml jobs/train_openimages.py -- \\
            --preset openimages-v3 --method ll-cp --dataset DIR

    Raises:
        InputError: no such preset, no such method, or a method for a row of the ablation that has
            another.
    """
    base, _, row = name.partition("-ablation-")
    if base not in PRESETS or (row and base == DEMO):
        raise InputError(f"no preset {name!r}", fix=f"choose one of {SPELLING}")
    # Here, because it takes torch: a job's help should not.
    from pipeline.config import paper_options

    if row:
        chosen = _ablation(row, method, base, paper_options.ablation())
    else:
        chosen = {"method": Value(method or "ll-r", "ours", "unless --method says otherwise")}
    own = chosen["method"].value
    if base == DEMO:
        options = paper_options.preset("openimages-v3", own).options
        return _assemble({**_DEMO, **chosen}, {**options, **_demo_options(own)})
    found = paper_options.preset(base, own)
    return _assemble({**found.training, **chosen}, found.options)


def _ablation(
    row: str, method: str | None, base: str, rows: Sequence[tuple[float, float, str]]
) -> dict[str, Value]:
    """Method and slopes of BoostLU of a row of the paper's ablation, counted from 1."""
    if row not in map(str, range(1, len(rows) + 1)):
        raise InputError(f"no row {row!r} in the ablation", fix=f"pass 1 to {len(rows)}")
    alpha_train, alpha_infer, own = rows[int(row) - 1]
    if method not in (None, own):
        raise InputError(
            f"row {row} of the ablation is of method {own}, not {method}",
            fix=f"leave out --method, or use --preset {base} with slopes of your own",
        )
    source = f"row {row} of the ablation"
    return {
        "method": Value(own, "paper", source),
        "alpha_train": Value(alpha_train, "paper", source),
        "alpha_infer": Value(alpha_infer, "paper", source),
    }


def merged(start: Preset, config: TrainConfig) -> TrainConfig:
    """The configuration with the preset's method options beneath its own."""
    if config.method_options == start.config.method_options:
        return config
    own = parse_options(start.config.method_options) | parse_options(config.method_options)
    return dataclasses.replace(config, method_options=_written(own))


def _assemble(training: Mapping[str, Value], options: Mapping[str, Value]) -> Preset:
    sections: dict[str, dict[str, Any]] = {name: {} for name in ("", *_SECTIONS)}
    values: dict[str, Value] = {}
    for name, value in training.items():
        section = _section(name)
        values[f"{section}.{name}" if section else name] = value
        if name != ALGORITHM:
            sections[section][name] = value.value
    values |= {f"method_options.{name}": value for name, value in options.items()}
    config = TrainConfig(
        **{"dataset": "", **sections[""]},
        method_options=_written({name: value.value for name, value in options.items()}),
        **{name: made(**sections[name]) for name, made in _SECTIONS.items()},
    )
    return Preset(config=config, values=values)


def _section(name: str) -> str:
    """The part of the configuration that a value belongs to; "" for the top."""
    for section, made in _SECTIONS.items():
        if name in {field.name for field in dataclasses.fields(made)}:
            return section
    return "optimizer" if name == ALGORITHM else ""


def _written(options: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in options.items())


def _demo(value: Any) -> Value:
    return Value(value, "ours", "for a laptop without GPU, ten minutes on two cores")


# ResNet-18 from scratch on the procedural demo data, two workers (make demo).
_DEMO = {
    name: _demo(value)
    for name, value in {
        "dataset": "demo/dataset",
        "experiment": "demo",
        "workers": "2",
        "backbone": "resnet18",
        "image_size": 96,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "head_multiplier": 1.0,
        "epochs": 10,
    }.items()
}


def _demo_options(method: str) -> dict[str, Value]:
    if method in ("ll-r", "ll-ct", "ll-cp"):
        return {"delta_rel": _demo(0.2)}
    return {}
