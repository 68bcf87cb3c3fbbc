"""A flipped bit in what training reads is found, or harmless; a slice of the benchmark."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from benchmarks.faults import flipped_bits
from pipeline.data.unreadable import LeftOut
from sharding.layout import CLASSES_HASH
from sharding.manifest import Dataset, Manifest

READ = [
    "dataset.json",
    "classes.parquet",
    "labels/first/train.parquet",
    "images/train-000000.idx",
    "images/validation-000001.idx",
]


@pytest.fixture(scope="module")
def copy(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = Path(shutil.copytree(squares, tmp_path_factory.mktemp("flips") / "dataset"))
    digest = Dataset.open(dataset).classes.write(dataset / "classes.parquet")
    Manifest.read(dataset).with_provenance(**{CLASSES_HASH: digest}).write(dataset)
    return dataset


@pytest.mark.parametrize("name", READ)
def test_a_flipped_bit_is_found(copy: Path, name: str) -> None:
    original, draws = (copy / name).read_bytes(), random.Random(name)
    for _ in range(3):
        bit = flipped_bits.flip(copy / name, draws)
        assert flipped_bits.outcome(copy, ("", "")) == "found", bit
        (copy / name).write_bytes(original)


def test_a_name_in_a_tar_is_not_what_an_image_is_known_by(copy: Path) -> None:
    undamaged = flipped_bits.read(copy, LeftOut())
    tar = copy / "images/train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[3] ^= 1  # of the first image's name
    tar.write_bytes(content)
    assert flipped_bits.outcome(copy, undamaged) == "harmless"
