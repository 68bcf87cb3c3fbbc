"""How many images make a shard of so many bytes: from a sample, treated as the job will treat it.

The plan has to stand before the first image is read, or a missing image would move others to
another shard. The sample is the images first by hash, so that repeating the command finds the same
number; the number found first is kept where the images have changed since.

It is no strict bound, which would need the size of every image beforehand: the images of a shard
are a draw from those of its split, and a shard exceeds it about as often as three deviations are.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sharding.errors import InputError
from sharding.image_ids import Ids, format_image_ids
from sharding.layout import MANIFEST_FILE, SHARD_BYTES, UNFINISHED_FILE
from sharding.manifest import DamagedManifest, Manifest
from sharding.shards.plan import splitmix64
from sharding.shards.transcode import ImagePolicy, transcode
from sharding.sources.base import Source
from sharding.storage.retry import BadImage

SAMPLE = 200

BESIDE = 2048
"""Bytes of two headers, a label and padding, beside each image."""

CERTAINTY = 3.0
"""Standard deviations between what a full shard is expected to have and the bytes asked for."""


def images_for_bytes(
    shard_bytes: int,
    image_ids: Mapping[str, Ids],
    source: Source,
    treatment: ImagePolicy,
    output: Path,
) -> dict[str, int]:
    """Images in a shard that should not exceed ``shard_bytes`` bytes, by split.

    A split of which no sampled image is usable gets the least number of the others.

    Args:
        shard_bytes: asked for.
        image_ids: of every split.
        source: where the images come from.
        treatment: what the job does to them.
        output: directory of the dataset, where an earlier run has left its numbers.

    Raises:
        InputError: the images can only be read from front to end, or none of the sample is usable.
    """
    earlier = _earlier(shard_bytes, output)
    if earlier is not None and earlier.keys() == image_ids.keys():
        return earlier
    if not source.at_random:
        raise InputError(
            "--shard-bytes needs a sample of images, and compressed archives are read in one pass",
            fix="give --images-per-shard instead (315 KB is the mean of the mirror's images)",
        )
    samples = {split: _sample(ids_N) for split, ids_N in image_ids.items()}
    with source.staged(np.concatenate(list(samples.values())), output, map) as staged:
        sizes = {split: _sizes(staged, split, ids, treatment) for split, ids in samples.items()}
    found = {split: _number(shard_bytes, sizes_M) for split, sizes_M in sizes.items() if sizes_M}
    if not found:
        raise InputError(
            f"none of {sum(map(len, samples.values()))} sampled images could be used",
            fix="check --images",
        )
    return {split: found.get(split, min(found.values())) for split in image_ids}


def _sample(image_ids_N: Ids) -> Ids:
    order = np.argsort(splitmix64(image_ids_N), kind="stable")[:SAMPLE]
    return np.sort(image_ids_N[order])


def _sizes(source: Source, split: str, sample_M: Ids, treatment: ImagePolicy) -> list[int]:
    """Bytes that each usable image of a sample takes in a tar."""
    image_ids, sizes = format_image_ids(sample_M), []
    with source.only(image_ids).reader(split, image_ids) as reader:
        for image_id in image_ids:
            try:
                sizes.append(len(transcode(reader.read(image_id), treatment).data) + BESIDE)
            except BadImage:
                continue
    return sizes


def _number(shard_bytes: int, sizes_M: Sequence[int]) -> int:
    """The largest n of which n * mean + CERTAINTY * deviation * sqrt(n) is within the bytes.

    The mean is taken as far above the sample's as a sample of this size may err.
    """
    deviation = CERTAINTY * float(np.std(sizes_M))
    mean = float(np.mean(sizes_M)) + deviation / len(sizes_M) ** 0.5
    root = ((deviation**2 + 4 * mean * shard_bytes) ** 0.5 - deviation) / (2 * mean)
    return max(1, int(root**2))


def _earlier(shard_bytes: int, output: Path) -> dict[str, int] | None:
    """The numbers that this job found when it began."""
    begun = None
    if (output / MANIFEST_FILE).is_file():
        with contextlib.suppress(DamagedManifest):
            begun = json.loads(Manifest.read(output).created_by.get(SHARD_BYTES, "null"))
    if begun is None and (output / UNFINISHED_FILE).is_file():
        begun = json.loads((output / UNFINISHED_FILE).read_text(encoding="utf-8")).get(SHARD_BYTES)
    if isinstance(begun, dict) and begun["bytes"] == shard_bytes:  # once it was a number
        return dict(begun["images"])
    return None
