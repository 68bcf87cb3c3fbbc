"""Presets say what they know and where from, and every one of them makes a method."""

from __future__ import annotations

import itertools
import typing

import pytest

from pipeline import methods
from pipeline.config.paper_options import ablation, method_options
from pipeline.config.paper_training import DATASETS, Provenance, Value, training_values


def values_of(dataset: str, method: str) -> tuple[dict[str, Value], dict[str, Value]]:
    """(training, options) of a method on a data set."""
    training = training_values(dataset, method)
    return training, method_options(dataset, method, training)


@pytest.mark.parametrize(("dataset", "name"), itertools.product(DATASETS, methods.names()))
def test_every_preset_makes_a_method(dataset: str, name: str) -> None:
    training, options = values_of(dataset, name)
    methods.create(name, 20, **{option: value.value for option, value in options.items()})
    for value in [*training.values(), *options.values()]:
        assert value.provenance in typing.get_args(Provenance)
        assert value.source
    assert {"backbone", "learning_rate", "batch_size", "epochs"} <= set(training)


@pytest.mark.parametrize(
    ("dataset", "name", "option", "value", "provenance"),
    [
        ("pascal", "ll-r", "delta_rel", 0.5, "code"),
        ("coco", "ll-ct", "delta_rel", 0.2, "code"),
        ("cub", "ll-cp", "delta_rel", 0.1, "code"),
        ("openimages-v3", "ll-r", "delta_rel", 0.01, "paper"),
        ("cub", "em-apl", "alpha", 0.01, "code"),
        ("coco", "em-apl", "beta", 0.9, "code"),
        ("nuswide", "em-apl", "warmup_epochs", 4, "code"),
        ("cub", "role", "expected_num_pos", 31.4, "code"),
        ("pascal", "asl", "gamma_neg", 4.0, "unknown"),
    ],
)
def test_published_values(
    dataset: str, name: str, option: str, value: float, provenance: str
) -> None:
    found = values_of(dataset, name)[1][option]
    assert (found.value, found.provenance) == (value, provenance)


def test_the_estimator_learns_ten_times_as_fast() -> None:
    training, options = values_of("coco", "role")
    assert options["estimator_lr"].value == 10 * training["learning_rate"].value


def test_open_images_says_what_is_not_published() -> None:
    training = training_values("openimages-v3", "ll-r")
    assert training["batch_size"].provenance == "unknown"
    assert training["epochs"].provenance == "paper"
    assert training["backbone"].value == "resnet101"


def test_the_ablation_has_seven_rows() -> None:
    assert len(set(ablation())) == 7
    assert ablation()[0] == (1, 1, "an")
    assert ablation()[-1] == (5, 5, "ll-r")
