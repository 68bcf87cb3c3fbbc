"""Configurations are validated, complete and comparable."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.commands import EvaluateConfig, ExportOptions, PredictConfig
from pipeline.config.presets import preset
from pipeline.config.sections import DataConfig, ModelConfig, OptimizerConfig
from pipeline.config.train import TrainConfig, differences, parse_options
from sharding.errors import InputError


@pytest.mark.parametrize(
    ("workers", "expected"), [("1", (1, 1)), ("4", (4, 4)), ("1:4", (1, 4)), ("2:2", (2, 2))]
)
def test_workers(workers: str, expected: tuple[int, int]) -> None:
    config = TrainConfig(dataset="d", workers=workers, data=DataConfig(batch_size=24))
    assert config.worker_range == expected


@pytest.mark.parametrize("workers", ["", "0", "4:1", "two", "1:2:3", "-1"])
def test_bad_workers_are_refused(workers: str) -> None:
    with pytest.raises(InputError, match="workers"):
        TrainConfig(dataset="d", workers=workers)


@pytest.mark.parametrize(
    ("workers", "error"), [("1:3", "does not divide"), ("1:8", "a multiple of 840")]
)
def test_batch_must_divide_over_every_possible_number_of_workers(workers: str, error: str) -> None:
    with pytest.raises(InputError, match=error):
        TrainConfig(dataset="d", workers=workers)  # 16 over them
    TrainConfig(dataset="d", workers=workers, data=DataConfig(batch_size=840))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (TrainConfig, {"keep_checkpoints": 0}),
        (TrainConfig, {"max_steps": 0}),
        (TrainConfig, {"max_steps": -3}),
        (TrainConfig, {"cpus_per_worker": -1}),
        (TrainConfig, {"cpus_per_worker": 0}),
        (TrainConfig, {"cache_gb": -1.0}),
        (TrainConfig, {"cache_gb": float("nan")}),
        (TrainConfig, {"cache_gb": float("inf")}),
        (TrainConfig, {"seed": -1}),
        (TrainConfig, {"checkpoint_every": 0}),
        (TrainConfig, {"candidates_per_epoch": -1}),
        (OptimizerConfig, {"weight_decay": -1.0}),
        (OptimizerConfig, {"weight_decay": float("nan")}),
        (OptimizerConfig, {"learning_rate": float("nan")}),
        (OptimizerConfig, {"learning_rate": float("inf")}),
        (OptimizerConfig, {"head_multiplier": float("nan")}),
        (OptimizerConfig, {"clip_norm": 0.0}),
        (OptimizerConfig, {"clip_norm": -1.0}),
        (OptimizerConfig, {"clip_norm": float("nan")}),
        (ModelConfig, {"alpha_train": float("nan")}),
        (ModelConfig, {"alpha_train": 0.5}),
        (DataConfig, {"hardware_share": 1.2}),
    ],
)
def test_values_that_cannot_work_are_refused(part: Any, value: dict[str, Any]) -> None:
    named = {"dataset": "d"} if part is TrainConfig else {}
    ((name, number),) = value.items()
    with pytest.raises(InputError, match=rf"{name} is {number:g}\. Fix: pass --"):
        part(**named, **value)


def test_options_parse_to_their_types() -> None:
    assert parse_options(("a=1", "b=0.5", "c=true", "d=selective", "e=0,2,-.5")) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "selective",
        "e": (0, 2, -0.5),
    }
    with pytest.raises(InputError, match="name=value"):
        parse_options(("delta_rel",))


def test_default_name_follows_the_method() -> None:
    config = preset("demo").config
    other = dataclasses.replace(config, method="an")
    assert config.run_name != other.run_name
    assert dataclasses.replace(config, name="mine").run_name == "mine"
    assert config.run_name == "ll-r-boostlu-5-5-timm-resnet10t-seed0"


def test_differences_ignore_what_a_resumed_run_may_change() -> None:
    config = preset("demo").config
    longer = dataclasses.replace(
        config, workers="1", optimizer=dataclasses.replace(config.optimizer, epochs=99)
    )
    assert differences(config, longer) == {}
    other = dataclasses.replace(config, seed=7)
    assert differences(config, other) == {"seed": (0, 7)}


@pytest.mark.parametrize("course", [{"schedule": "cosine"}, {"warmup": 0.1}])
def test_epochs_are_part_of_a_course_of_the_learning_rate(course: dict[str, Any]) -> None:
    config = preset("demo").config
    optimizer = dataclasses.replace(config.optimizer, epochs=5, **course)
    longer = dataclasses.replace(optimizer, epochs=6)
    old, new = (dataclasses.replace(config, optimizer=each) for each in (optimizer, longer))
    assert differences(old, new) == {"optimizer.epochs": (5, 6)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "coco"}, "no rule 'coco'.*boostlu, imcl, csl"),
        ({"batch_size": 0}, "batch_size is 0.*--batch-size 1 or more"),
        ({"intervals": -1}, "intervals is -1"),
        ({"workers": 0}, "workers is 0"),
        ({"cache_gb": -1.0}, "cache_gb is -1"),
        ({"register": "m", "beam": 2}, "without a beam"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvaluateConfig(checkpoint="c", dataset="d", **options)  # type: ignore[arg-type]


def test_a_prediction_has_workers() -> None:
    with pytest.raises(InputError, match="workers is -1"):
        PredictConfig(checkpoint="c", output="o", images="i", workers=-1)


def test_an_export_has_a_format() -> None:
    with pytest.raises(InputError, match="no format"):
        ExportOptions(checkpoint="c", output=Path("o"), formats=())


def test_a_registered_model_gets_intervals_unless_they_are_refused() -> None:
    def replicates(**options: Any) -> int:
        return EvaluateConfig(checkpoint="c", dataset="d", **options).replicates

    assert (replicates(), replicates(register="m")) == (0, 200)
    assert (replicates(register="m", intervals=0), replicates(intervals=50)) == (0, 50)
