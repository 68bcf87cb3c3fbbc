"""A run keeps the labels it began with, whatever its dataset calls the default by now."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.train import TrainConfig
from pipeline.training import prepare
from sharding.errors import InputError
from sharding.manifest import Dataset, Manifest


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(tmp_path / "runs" / "one")


@pytest.fixture
def sharded_anew(squares: Path, tmp_path: Path) -> Dataset:
    copy = shutil.copytree(squares, tmp_path / "dataset")
    manifest = Manifest.read(copy)
    labels = {**manifest.labels, "second": manifest.labels["first"]}
    dataclasses.replace(manifest, labels=labels, default_labels="second").write(copy)
    return Dataset.open(copy)


def begun(run: str, dataset: Dataset, labels: str | None = None) -> tuple[bool, str | None]:
    """Whether the run is resumed, and the labels it trains on."""
    config = TrainConfig(dataset="d", name="one", labels=labels)
    config = prepare.with_labels(config, dataset, run)
    return prepare.claim(run, config), config.labels


def test_a_new_default_is_not_taken_over(run: str, squares: Path, sharded_anew: Dataset) -> None:
    assert begun(run, Dataset.open(squares)) == (False, "first")
    assert begun(run, sharded_anew) == (True, "first")
    assert begun(run, sharded_anew, "first") == (True, "first")


def test_a_new_run_takes_it(run: str, sharded_anew: Dataset) -> None:
    assert begun(run, sharded_anew) == (False, "second")


def test_other_labels_are_another_run(run: str, squares: Path, sharded_anew: Dataset) -> None:
    begun(run, Dataset.open(squares))
    with pytest.raises(InputError, match=r"labels was first, is second.*another --name"):
        begun(run, sharded_anew, "second")


def test_a_run_that_named_none_goes_on(run: str, squares: Path) -> None:
    dataset = Dataset.open(squares)
    begun(run, dataset)
    config = Path(run) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "labels": None}))
    assert begun(run, dataset) == (True, "first")
