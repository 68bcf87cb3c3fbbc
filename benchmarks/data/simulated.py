"""Simulate an annotation dump like V3's, of any size, and its dataset without the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharding.classes import ClassTable
from sharding.dataset.label_versions import NewLabels, write_version
from sharding.dataset.members import Members
from sharding.image_ids import format_id_column
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import ShardRecord
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump

CLASSES, OUTSIDE, CHUNK = 5_000, 1_500, 200_000
POSITIVE_SHARE = 0.467  # of V3's human rows
ROWS_FILE = "2017_11/train/annotations-human.csv"


def class_list() -> list[str]:
    """List as many MIDs as V3's trainable list has."""
    return [f"/m/0{index:05x}" for index in range(CLASSES)]


def simulate_dump(
    folder: Path,
    ids_N: npt.NDArray[np.uint64],
    rows_per_image: float,
    rng: np.random.Generator,
    mids: Sequence[str] | None = None,
) -> None:
    """Write V3-like train rows: ids in order, geometric rows per image, long-tailed classes."""
    words = pa.array([*(mids or class_list()), *(f"/m/0zz{index:03x}" for index in range(OUTSIDE))])
    chances = 1 / np.arange(20, 20 + len(words))
    order = rng.permutation(len(words))
    ends = pa.array([",0\n", ",1\n"])
    path = folder / ROWS_FILE
    path.parent.mkdir(parents=True)
    with open(path, "wb") as out:
        out.write(b"ImageID,Source,LabelName,Confidence\n")
        for begin in range(0, len(ids_N), CHUNK):
            ids = ids_N[begin : begin + CHUNK]
            owners = np.repeat(np.arange(len(ids)), rng.geometric(1 / rows_per_image, len(ids)))
            picked = order[rng.choice(len(words), len(owners), p=chances / chances.sum())]
            # No pair twice: V3's heads hold neither duplicates nor conflicts.
            owners, picked = np.divmod(np.unique(owners * len(words) + picked), len(words))
            positive = (rng.random(len(owners)) < POSITIVE_SHARE).astype(np.int64)
            lines = pc.binary_join_element_wise(
                format_id_column(ids).take(pa.array(owners)),
                pa.scalar(",verification,"),
                words.take(pa.array(picked)),
                ends.take(pa.array(positive)),
                "",
            )
            out.write("".join(lines.to_pylist()).encode())


def simulate_dataset(folder: Path, images_per_shard: int, rng: np.random.Generator) -> Dataset:
    """Write a dataset without tars: 5% of the labels differ, 1% of the images have no pixels."""
    labels = read_split(Dump.open(folder), "train", class_list())
    changed = rng.random(len(labels.table.states_E)) < 0.05
    states_E = np.where(changed, 1 - labels.table.states_E, labels.table.states_E)
    old = dataclasses.replace(labels.table, states_E=states_E)
    order = np.argsort(old.image_ids_N * np.uint64(0x9E3779B97F4A7C15))  # placed by hash
    with_pixels_N = old.image_ids_N[order[: int(0.99 * len(order))]]
    cuts = range(images_per_shard, len(with_pixels_N), images_per_shard)
    members = [shard(number, ids_N) for number, ids_N in enumerate(np.split(with_pixels_N, cuts))]
    new = NewLabels(
        name="old",
        release="v3",
        policy={},
        splits={"train": dataclasses.replace(labels, table=old)},
    )
    zeros_K = np.zeros(CLASSES, np.int64)
    classes = ClassTable.build(class_list(), class_list(), zeros_K, zeros_K)
    classes.write(folder / "classes.parquet")
    Manifest(
        name="simulated",
        classes_sha256=classes.sha256,
        num_classes=CLASSES,
        seed=0,
        images_per_shard=images_per_shard,
        treatment={"mode": "keep"},
        default_labels="old",
        labels={"old": write_version(folder, new, members)},
        shards=tuple(part.shard for part in members),
    ).write(folder)
    return Dataset.open(folder)


def shard(number: int, image_ids_N: npt.NDArray[np.uint64]) -> Members:
    """Describe a tar that is never read."""
    path = f"images/train-{number:06d}"
    record = ShardRecord(
        path=f"{path}.tar",
        index=f"{path}.idx",
        split="train",
        images=len(image_ids_N),
        bytes=0,
        sha256="",
        index_sha256="",
    )
    return Members(shard=record, image_ids_N=image_ids_N)
