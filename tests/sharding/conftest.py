"""Fixtures of the sharding tests: a dump with its images, and the dataset made of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.commands import Inputs, shard
from tests.support.photos import tree, write_photo_dump


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A dump and the folder of its images; to be copied by tests that change them."""
    return write_photo_dump(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="session")
def on_disk(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the dump, sharded from files into a directory; to be copied likewise."""
    output = tmp_path_factory.mktemp("disk") / "tiny"
    shard(inputs, output)
    return output


@pytest.fixture(scope="session")
def from_directory(on_disk: Path) -> dict[str, str]:
    """The hash of every file of that dataset."""
    return tree(on_disk)


@pytest.fixture(scope="module")
def original(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of a module's own dump (its fixture `inputs`); to be copied likewise."""
    output = tmp_path_factory.mktemp("original") / "dataset"
    shard(inputs, output)
    return output


@pytest.fixture
def dataset(original: Path, tmp_path: Path) -> Path:
    """A copy of that dataset, for one test to change."""
    return shutil.copytree(original, tmp_path / "dataset")
