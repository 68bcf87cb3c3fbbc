"""A small learnable dataset, written with tarfile and DALI's own indexer.

It does not go through `sharding.shards.writer`, so that a fault of the writer and a fault of the
reader cannot hide each other. A class is a coloured square at a random place on noise.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sharding.classes import ClassTable
from sharding.labels import LabelTable
from sharding.manifest import LabelFile, LabelVersion, Manifest, ShardRecord

SPLITS: Mapping[str, tuple[int, ...]] = {
    "train": (37, 29, 30),
    "validation": (21, 19),
    "test": (16, 8),
}


def write_dataset(directory: Path, *, num_classes: int = 8, seed: int = 0) -> Path:
    """Write the dataset (shard sizes as in `SPLITS`) and return its directory."""
    rng = np.random.default_rng(seed)
    shards: list[ShardRecord] = []
    files: dict[str, LabelFile] = {}
    counts: dict[str, tuple[np.ndarray, ...]] = {}
    number = 0
    for split, sizes in SPLITS.items():
        ids, positives, negatives, owners = [], [], [], []
        for shard, size in enumerate(sizes):
            tar = f"images/{split}-{shard:06d}.tar"
            members = {}
            for _ in range(size):
                image_id = f"{number:016x}"
                number += 1
                present = sorted(rng.choice(num_classes, 2, replace=False).tolist())
                absent = [k for k in range(num_classes) if k not in present]
                members[image_id] = _picture(present, rng)
                ids.append(image_id)
                # One of the two is left unobserved: a false negative under "assume negative".
                positives.append(present[:1] if split == "train" else present)
                negatives.append(sorted(rng.choice(absent, 2, replace=False).tolist()))
                owners.append(tar)
            _write_tar(directory / tar, members)
            shards.append(
                ShardRecord(
                    path=tar,
                    index=tar.replace(".tar", ".idx"),
                    split=split,
                    images=size,
                    bytes=(directory / tar).stat().st_size,
                    sha256=_sha256(directory / tar),
                    index_sha256=_sha256((directory / tar).with_suffix(".idx")),
                )
            )
        table = LabelTable.from_lists(ids, positives, negatives, owners)
        counts[split] = table.count_per_class(num_classes)
        path = f"labels/first/{split}.parquet"
        digest = table.write(directory / path)
        p, n = (int(count.sum()) for count in counts[split])
        files[split] = LabelFile(
            path=path, images=len(ids), positives=p, negatives=n, sha256=digest
        )
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


def _picture(present: list[int], rng: np.random.Generator) -> bytes:
    image_HWC = rng.integers(90, 150, (64, 80, 3)).astype(np.uint8)
    for slot, k in enumerate(present):
        top, left = int(rng.integers(0, 40)), int(rng.integers(0, 16)) + 40 * slot
        colour = [(k >> bit & 1) * 255 for bit in range(3)]
        image_HWC[top : top + 24, left : left + 24] = colour
    out = io.BytesIO()
    Image.fromarray(image_HWC).save(out, "JPEG", quality=90)
    return out.getvalue()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{name}.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    indexer = Path(sys.executable).with_name("wds2idx")
    command = [str(indexer), str(path), str(path.with_suffix(".idx"))]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
