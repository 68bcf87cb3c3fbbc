"""Presets say what they know and where from, and every one of them makes a method."""

from __future__ import annotations

import itertools
import typing

import pytest

from pipeline import methods
from pipeline.config.paper_options import ablation, preset
from pipeline.config.paper_training import DATASETS, Provenance
from sharding.errors import InputError


@pytest.mark.parametrize(("dataset", "name"), itertools.product(DATASETS, methods.names()))
def test_every_preset_makes_a_method(dataset: str, name: str) -> None:
    found = preset(dataset, name)
    methods.create(name, 20, **found.create_options())
    for value in [*found.training.values(), *found.options.values()]:
        assert value.provenance in typing.get_args(Provenance)
        assert value.source
    assert {"backbone", "learning_rate", "batch_size", "epochs"} <= set(found.training)


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
    found = preset(dataset, name).options[option]
    assert (found.value, found.provenance) == (value, provenance)


def test_the_estimator_learns_ten_times_as_fast() -> None:
    found = preset("coco", "role")
    assert found.options["estimator_lr"].value == 10 * found.training["learning_rate"].value


def test_open_images_says_what_is_not_published() -> None:
    training = preset("openimages-v3", "ll-r").training
    assert training["batch_size"].provenance == "unknown"
    assert training["epochs"].provenance == "paper"
    assert training["backbone"].value == "resnet101"


def test_the_ablation_has_seven_rows() -> None:
    assert len(set(ablation())) == 7
    assert ablation()[0] == (1, 1, "an")
    assert ablation()[-1] == (5, 5, "ll-r")


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(InputError, match="openimages-v3"):
        preset("imagenet", "an")
    with pytest.raises(InputError, match="ll-cp"):
        preset("coco", "sgd")
