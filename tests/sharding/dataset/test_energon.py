"""`.nv-meta/` holds what Megatron-Energon 7 asks of a dataset, but for its index of the tars."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from sharding.manifest import Manifest
from tests.support.commands import check


def test_every_tar_is_in_its_part_with_its_number_of_samples(on_disk: Path) -> None:
    manifest, folder = Manifest.read(on_disk), on_disk / ".nv-meta"
    # Energon reads both files strictly: no other keys, split names of its own.
    assert json.loads((folder / ".info.json").read_text()) == {
        "shard_counts": {shard.path: shard.images for shard in manifest.shards}
    }
    parts = {"train": "train", "val": "validation", "test": "test"}
    assert yaml.safe_load((folder / "split.yaml").read_text()) == {
        "exclude": [],
        "split_parts": {
            part: [shard.path for shard in manifest.shards if shard.split == split]
            for part, split in parts.items()
        },
    }
    assert yaml.safe_load((folder / "dataset.yaml").read_text()) == {
        "__module__": "megatron.energon",
        "__class__": "CrudeWebdataset",
    }


def test_what_its_own_preparation_adds_is_no_stranger(on_disk: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(on_disk, tmp_path / "dataset"))
    for name in ("images/train-000000.tar.idx", ".nv-meta/index.sqlite", ".nv-meta/index.uuid"):
        (dataset / name).write_bytes(b"x")
    assert check(dataset).intact
    (dataset / ".nv-meta/notes.txt").write_bytes(b"x")
    assert "notes.txt: the manifest does not name it" in str(check(dataset))
