"""Write a small learnable dataset with tarfile and DALI's own indexer.

It does not go through `sharding.shards.writer`, so that a fault of the writer and a fault of the
reader cannot hide each other. A class is a coloured square at a random place on noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sharding.classes import ClassTable
from sharding.dataset.label_versions import write_labels
from sharding.labels import LabelTable
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import LabelFile, LabelVersion, ShardRecord

SPLITS: Mapping[str, tuple[int, ...]] = {
    "train": (37, 29, 30),
    "validation": (21, 19),
    "test": (16, 8),
}


def write_dataset(directory: Path, *, num_classes: int = 8, seed: int = 0) -> Path:
    """Write the dataset (shard sizes as in `SPLITS`) and return its directory."""
    rng = np.random.default_rng(seed)
    numbers = itertools.count()
    shards: list[ShardRecord] = []
    files: dict[str, LabelFile] = {}
    counts: dict[str, tuple[np.ndarray, ...]] = {}
    for split, sizes in SPLITS.items():
        images: list[_Image] = []
        for shard, size in enumerate(sizes):
            path = f"images/{split}-{shard:06d}.tar"
            drawn = [_draw(next(numbers), path, split, num_classes, rng) for _ in range(size)]
            shards.append(_write_shard(directory, path, split, drawn))
            images += drawn
        ids, positives, negatives, owners, _ = zip(*images, strict=True)
        table = LabelTable.from_lists(ids, positives, negatives, owners)
        counts[split] = table.count_per_class(num_classes)
        files[split] = write_labels(directory, "first", split, table)
    classes = ClassTable.build(
        [f"/m/0{k:03d}" for k in range(num_classes)],
        [f"square {k}" for k in range(num_classes)],
        *counts["train"],
    )
    classes.write(directory / "classes.parquet")
    version = LabelVersion(release="v3", sources={}, policy={}, report={}, splits=files)
    Manifest(
        name="squares",
        classes_sha256=classes.sha256,
        num_classes=num_classes,
        seed=0,
        images_per_shard=37,
        treatment={"mode": "keep"},
        default_labels="first",
        labels={"first": version},
        shards=tuple(shards),
    ).write(directory)
    return directory


class _Image(NamedTuple):
    """One image, its label lists and the tar it is in."""

    image_id: str
    positives: list[int]
    negatives: list[int]
    tar: str
    content: bytes


def _draw(number: int, tar: str, split: str, num_classes: int, rng: np.random.Generator) -> _Image:
    present = sorted(rng.choice(num_classes, 2, replace=False).tolist())
    absent = [k for k in range(num_classes) if k not in present]
    content = _picture(present, rng)
    negatives = sorted(rng.choice(absent, 2, replace=False).tolist())
    # One of the two is left unobserved: a false negative under "assume negative".
    positives = present[:1] if split == "train" else present
    return _Image(f"{number:016x}", positives, negatives, tar, content)


def _picture(present: list[int], rng: np.random.Generator) -> bytes:
    image_HWC = rng.integers(90, 150, (64, 80, 3)).astype(np.uint8)
    for slot, k in enumerate(present):
        top, left = int(rng.integers(0, 40)), int(rng.integers(0, 16)) + 40 * slot
        colour = [(k >> bit & 1) * 255 for bit in range(3)]
        image_HWC[top : top + 24, left : left + 24] = colour
    out = io.BytesIO()
    Image.fromarray(image_HWC).save(out, "JPEG", quality=90)
    return out.getvalue()


def _write_shard(directory: Path, tar: str, split: str, images: Sequence[_Image]) -> ShardRecord:
    path = directory / tar
    index = path.with_suffix(".idx")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for image in images:
            info = tarfile.TarInfo(f"{image.image_id}.jpg")
            info.size = len(image.content)
            archive.addfile(info, io.BytesIO(image.content))
    indexer = Path(sys.executable).with_name("wds2idx")
    subprocess.run([str(indexer), str(path), str(index)], check=True, stdout=subprocess.DEVNULL)
    return ShardRecord(
        path=tar,
        index=index.relative_to(directory).as_posix(),
        split=split,
        images=len(images),
        bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        index_sha256=hashlib.sha256(index.read_bytes()).hexdigest(),
    )


def relabel(dataset: Path, table: LabelTable) -> Dataset:
    """Replace the training labels of a dataset of `write_dataset`."""
    manifest = Manifest.read(dataset)
    version = manifest.labels["first"]
    files = {**version.splits, "train": write_labels(dataset, "first", "train", table)}
    labels = {"first": dataclasses.replace(version, splits=files)}
    dataclasses.replace(manifest, labels=labels).write(dataset)
    return Dataset.open(dataset)
