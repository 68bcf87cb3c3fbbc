"""Write a dataset with Open Images V3's numbers of images, labels and machine confidences.

Manifest, class table, label tables, confidences and tars are what the jobs read; of the pixels
only a part is there. A training tar holds a few pictures, and its DALI index says of every image
of the shard that it is one of these, so that nine million images take a fraction of their disk.
The tars of validation and test hold every image that they list.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.data.simulated import POSITIVE_SHARE, class_list
from sharding import confidences
from sharding.classes import ClassTable
from sharding.confidences import Confidences
from sharding.dataset.label_versions import write_labels
from sharding.image_ids import Ids, format_image_ids
from sharding.labels import NEGATIVE, POSITIVE, LabelTable
from sharding.layout import confidences_path, shard_name, shard_path
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import ConfidenceFile, ConfidenceVersion, LabelVersion, ShardRecord
from sharding.openimages.class_list import read_classes
from sharding.openimages.dump import Dump
from sharding.storage.files import sha256_of
from sharding.storage.tar_writer import IndexedTar

LABELS, MACHINE = "v3", "machine"
_ROWS = 1 << 13
"""Images of a row group of confidences, as `sharding.dataset.confidence_versions` writes them."""
_PICTURES, _SIDES = 256, (48, 64)


@dataclass(frozen=True, kw_only=True)
class SplitSize:
    """Numbers of a split.

    Attributes:
        images: in its tars.
        labelled: images that humans labelled.
        labels: verified labels; of those drawn twice for one image one is left.
        positive: share of the labels that are positive.
        confidences: of a machine.
        pictures: images that a tar holds; None for all that its index lists.
    """

    images: int
    labelled: int
    labels: int
    positive: float
    confidences: int
    pictures: int | None = None


V3: Mapping[str, SplitSize] = {
    "train": SplitSize(
        images=9_011_219,
        labelled=3_657_355,
        labels=20_868_755,
        positive=POSITIVE_SHARE,
        confidences=78_977_695,
        pictures=64,
    ),
    "validation": SplitSize(
        images=41_620, labelled=41_620, labels=551_390, positive=0.663, confidences=512_093
    ),
    "test": SplitSize(
        images=125_436, labelled=125_436, labels=1_667_399, positive=0.663, confidences=1_545_835
    ),
}
"""Published numbers; the images that have labels are those of IMCL's training code."""


def scaled(size: SplitSize, scale: float) -> SplitSize:
    """Shrink a split; its labels and confidences of an image stay as many."""
    names = ("images", "labelled", "labels", "confidences")
    numbers = {name: max(1, int(scale * getattr(size, name))) for name in names}
    return SplitSize(**numbers, positive=size.positive, pictures=size.pictures)


def classes_of(folder: Path | None) -> tuple[list[str], list[str]]:
    """Read (MIDs, names) of a dump; without one make as many as V3 has."""
    if folder is None:
        return class_list(), class_list()
    mids, names = zip(*read_classes(Dump.open(folder)), strict=True)
    return list(mids), list(names)


def write_dataset(
    directory: Path,
    sizes: Mapping[str, SplitSize],
    classes: tuple[list[str], list[str]],
    *,
    images_per_shard: int = 4096,
    seed: int = 0,
) -> Dataset:
    """Write a dataset of these sizes."""
    rng = np.random.default_rng(seed)
    mids, names = classes
    draw = _Classes(len(mids), rng)
    pictures = draw_pictures(rng)
    shards: list[ShardRecord] = []
    files, evidence, counts = {}, {}, {}
    for split, size in sizes.items():
        ids_N = _draw_ids(size.images, rng)
        of_split = list(_write_tars(directory, split, size, ids_N, images_per_shard, pictures))
        table = _draw_labels(size, ids_N, of_split, draw, rng)
        counts[split] = table.count_per_class(len(mids))
        files[split] = write_labels(directory, LABELS, split, table)
        evidence[split] = _write_confidences(directory, split, size, ids_N, draw, rng)
        shards += of_split
    table = ClassTable.build(mids, names, *counts["train"])
    table.write(directory / "classes.parquet")
    Manifest(
        name="full-size",
        classes_sha256=table.sha256,
        num_classes=len(mids),
        seed=seed,
        images_per_shard=images_per_shard,
        treatment={"mode": "keep"},
        default_labels=LABELS,
        labels={LABELS: LabelVersion(release="v3", sources={}, policy={}, report={}, splits=files)},
        shards=tuple(shards),
        confidences={MACHINE: ConfidenceVersion(sources={}, report={}, splits=evidence)},
    ).write(directory)
    return Dataset.open(directory)


class _Classes:
    """Draws classes with a long tail."""

    def __init__(self, num_classes: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._order_K = rng.permutation(num_classes)
        chances_K = 1 / np.arange(20, 20 + num_classes)
        self._edges_K = np.cumsum(chances_K / chances_K.sum())

    def __call__(self, number: int) -> npt.NDArray[np.int64]:
        draws = np.searchsorted(self._edges_K, self._rng.random(number))
        return self._order_K[np.minimum(draws, len(self._order_K) - 1)]


def _draw_ids(number: int, rng: np.random.Generator) -> Ids:
    """Draw distinct ids, in no order, as shards hold them."""
    ids_N = np.unique(rng.integers(0, 2**64 - 1, number + number // 1000 + 1, np.uint64))
    rng.shuffle(ids_N)
    return ids_N[:number]


def draw_pictures(rng: np.random.Generator) -> list[bytes]:
    """Encode a few pictures of blocks of colour."""
    from PIL import Image

    contents = []
    for _ in range(_PICTURES):
        coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(coarse).resize(_SIDES[::-1]).save(out, "JPEG", quality=80)
        contents.append(out.getvalue())
    return contents


def _write_tars(
    directory: Path,
    split: str,
    size: SplitSize,
    ids_N: Ids,
    images_per_shard: int,
    pictures: Sequence[bytes],
) -> Iterator[ShardRecord]:
    supply = itertools.cycle(pictures)
    for number, first in enumerate(range(0, len(ids_N), images_per_shard)):
        keys = format_image_ids(ids_N[first : first + images_per_shard])
        present = min(len(keys), size.pictures or len(keys))
        name = shard_name(split, number)
        tar, index = shard_path(name), shard_path(name, ".idx")
        (directory / tar).parent.mkdir(parents=True, exist_ok=True)
        with open(directory / tar, "wb") as file:
            writer = IndexedTar(file.fileno())
            for key in keys[-present:]:
                writer.add(key, [("jpg", next(supply))])
            writer.finish()
        content = _listing(writer.index(), keys, present)
        (directory / index).write_bytes(content)
        yield ShardRecord(
            path=tar,
            index=index,
            split=split,
            images=len(keys),
            bytes=writer.size,
            sha256=writer.sha256,
            index_sha256=hashlib.sha256(content).hexdigest(),
        )


def _listing(index: bytes, keys: Sequence[str], present: int) -> bytes:
    """Let an index list all keys, each as one of the images that are there, the last as itself."""
    places = [line.rpartition(" ")[0] for line in index.decode().splitlines()[1:]]
    offset = -len(keys) % present
    lines = [f"{places[(n + offset) % present]} {key}.jpg" for n, key in enumerate(keys)]
    return "\n".join([f"v1.2 {len(keys)}", *lines, ""]).encode()


def _draw_labels(
    size: SplitSize,
    ids_N: Ids,
    shards: Sequence[ShardRecord],
    draw: _Classes,
    rng: np.random.Generator,
) -> LabelTable:
    labelled = rng.permutation(len(ids_N))[: size.labelled]
    rows_E, classes_E = _distinct(labelled[rng.integers(0, len(labelled), size.labels)], draw)
    states_E = np.where(rng.random(len(rows_E)) < size.positive, POSITIVE, NEGATIVE)
    paths = [shard.path for shard in shards for _ in range(shard.images)]
    return LabelTable.from_entries(ids_N, rows_E, classes_E, states_E, paths)


def _write_confidences(
    directory: Path,
    split: str,
    size: SplitSize,
    ids_N: Ids,
    draw: _Classes,
    rng: np.random.Generator,
) -> ConfidenceFile:
    path, count = confidences_path(MACHINE, split), 0
    (directory / path).parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(directory / path, confidences.SCHEMA, compression="zstd") as writer:
        for first in range(0, len(ids_N), _ROWS):
            part = ids_N[first : first + _ROWS]
            number = max(1, size.confidences * len(part) // len(ids_N))
            rows_E, classes_E = _distinct(rng.integers(0, len(part), number), draw)
            values_E = rng.integers(5, 11, len(rows_E)).astype(np.float32) / 10
            entries = Confidences(rows_E=rows_E, classes_E=classes_E, values_E=values_E)
            confidences.write_part(writer, part, entries)
            count += len(rows_E)
    digest = sha256_of(directory / path)
    return ConfidenceFile(path=path, images=len(ids_N), entries=count, sha256=digest)


def _distinct(
    rows_E: npt.NDArray[np.int64], draw: _Classes
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw a class for each row; leave out those drawn twice; sort by row and class."""
    keys = rows_E << 16 | draw(len(rows_E))
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    return keys >> 16, keys & 0xFFFF
