"""Shards bounded in bytes: found from a sample, kept once found, and really that size."""

from __future__ import annotations

import json
import shutil
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.support import commands
from tests.support.killing import run_until
from tests.support.photos import encode, photo, tree, write_photo_dump

SIZES = {"train": 400, "validation": 20, "test": 20}
BYTES = 200_000


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_photo_dump(tmp_path_factory.mktemp("input"), SIZES)


shard = partial(commands.shard, shard_bytes=BYTES, ranks=1)


def test_shards_are_about_as_large_as_asked_for(inputs, tmp_path) -> None:
    shard(inputs, tmp_path / "out")
    sizes = [shard.bytes for shard in Dataset.open(tmp_path / "out").shards("train")]
    assert max(sizes) <= BYTES
    assert sum(sizes) / len(sizes) > BYTES / 2


def test_every_split_is_sized_by_its_own_images(inputs, tmp_path) -> None:
    images = shutil.copytree(inputs[1], tmp_path / "images")
    for number, path in enumerate(sorted(images.rglob("*.jpg"))):
        side = 40 + 97 * number % 160 if path.parent.name == "train" else 300
        path.write_bytes(encode(photo(side, side, seed=number), quality=80))
    shard((inputs[0], images), tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    sizes = {s: [shard.bytes for shard in dataset.shards(s)] for s in SIZES}
    assert max(map(max, sizes.values())) <= BYTES
    assert min(np.mean(found) for found in sizes.values()) > BYTES / 2
    # What is added later fits in wherever it belongs.
    numbers = json.loads(dataset.manifest.created_by["shard_bytes"])["images"]
    assert dataset.manifest.images_per_shard == min(numbers.values()) < numbers["train"]


def test_a_split_without_images_is_no_obstacle(inputs, tmp_path) -> None:
    images = shutil.copytree(inputs[1], tmp_path / "images")
    shutil.rmtree(images / "test")
    shard((inputs[0], images), tmp_path / "out", allow_empty=("test",))
    assert Dataset.open(tmp_path / "out").manifest.quarantined == SIZES["test"]
    shutil.rmtree(images)
    (images / "train").mkdir(parents=True)
    (images / f"train/{'f' * 16}.jpg").touch()
    with pytest.raises(InputError, match="none of 240 sampled images could be used"):
        shard((inputs[0], images), tmp_path / "none")


def test_the_number_found_first_is_kept(inputs, tmp_path) -> None:
    shard(inputs, tmp_path / "undisturbed")
    assert run_until(60, shard, inputs, tmp_path / "out")
    begun = json.loads((tmp_path / "out/unfinished.json").read_text())
    larger, content = tmp_path / "larger", encode(photo(300, 300))
    for path in inputs[1].rglob("*.jpg"):
        target = larger / path.relative_to(inputs[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    shard((inputs[0], larger), tmp_path / "out")
    manifest = Dataset.open(tmp_path / "out").manifest
    assert manifest.images_per_shard == begun["images_per_shard"]
    before = tree(tmp_path / "undisturbed")
    shard((inputs[0], larger), tmp_path / "undisturbed")
    assert tree(tmp_path / "undisturbed") == before


def test_another_size_is_another_dataset(inputs, tmp_path) -> None:
    shard(inputs, tmp_path / "out")
    with pytest.raises(InputError, match="images_per_shard was"):
        shard(inputs, tmp_path / "out", shard_bytes=2 * BYTES)


def test_compressed_archives_cannot_be_sampled(inputs, tmp_path) -> None:
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        for path in sorted((inputs[1] / "test").iterdir()):
            archive.add(path, arcname=path.name)
    with pytest.raises(InputError, match="read in one pass"):
        shard((inputs[0], tmp_path / "all.tar.gz"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
