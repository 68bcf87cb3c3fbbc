"""Labels to train on are of the images in the tars, and there are some."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.labels import LabelledSplit, labels_of
from sharding.errors import InputError
from sharding.labels import LabelTable
from sharding.manifest import Dataset
from tests.support.datasets import relabel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes_E": lambda a: np.where(np.arange(len(a)) == 0, 8, a)}, "has class 8 of 8"),
        ({"classes_E": lambda a: np.where(np.arange(len(a)) == 1, a[0], a)}, "twice, or as posit"),
        ({"image_ids_N": lambda a: np.where(np.arange(len(a)) == 1, a[0], a)}, "stands there twic"),
    ],
    ids=["class beyond K", "positive and negative", "id twice"],
)
def test_labels_that_contradict_themselves_are_refused(
    squares: Path, tmp_path: Path, change: dict[str, Callable[..., object]], message: str
) -> None:
    dataset = shutil.copytree(squares, tmp_path / "dataset")
    table = Dataset.open(squares).labels("train")
    columns = {name: changed(getattr(table, name)) for name, changed in change.items()}
    damaged = relabel(dataset, dataclasses.replace(table, **columns))
    with pytest.raises(InputError, match=rf"train\.parquet: image .* {message}"):
        LabelledSplit.open(damaged, "train", None, torch.device("cpu"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda table: table.select(table.image_ids_N[:9], table.shards[:9]), "its 9 rows do not"),
        (lambda table: table.select(table.image_ids_N + 2**60, table.shards), "no image of split"),
    ],
    ids=["other rows", "no label"],
)
def test_labels_of_other_images_or_of_none_are_refused(
    squares: Path, tmp_path: Path, table: Callable[[LabelTable], LabelTable], message: str
) -> None:
    dataset = shutil.copytree(squares, tmp_path / "dataset")
    changed = relabel(dataset, table(Dataset.open(squares).labels("train")))
    with pytest.raises(InputError, match=message):
        LabelledSplit.open(changed, "train", None, torch.device("cpu"))


def test_labels_that_are_not_the_manifests_are_refused(squares: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(shutil.copytree(squares, tmp_path / "dataset"))
    table = dataset.labels("train")
    _, version = dataset.label_version()
    flipped = dataclasses.replace(table, states_E=1 - table.states_E)
    flipped.write(dataset.directory / version.splits["train"].path)
    with pytest.raises(InputError, match=r"train\.parquet: its content has changed"):
        labels_of(dataset, "train", None)
