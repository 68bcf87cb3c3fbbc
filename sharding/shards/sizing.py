"""Choose how many images make a shard of so many bytes, by the mean of a sample of each split.

The plan has to stand before the first image is read, or a missing image would move others to
another shard. The sample is the images first by hash, so that repeating the command finds the same
number; the number found first is kept where the images have changed since. It is no strict bound,
which would need the size of every image beforehand.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
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
OVERHEAD = 2048
"""Bytes of two headers, a label and padding, for each image."""


def images_for_bytes(
    shard_bytes: int,
    image_ids: Mapping[str, Ids],
    source: Source,
    policy: ImagePolicy,
    output: Path,
) -> dict[str, int]:
    """Choose the images of a shard of about ``shard_bytes`` bytes, by split.

    A split of which no sampled image is usable gets the least number of the others.

    Args:
        shard_bytes: asked for.
        image_ids: of every split.
        source: where the images come from.
        policy: what the job does to them.
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
    with source.staged(np.concatenate(list(samples.values())), None, map) as staged:
        sizes = {split: _sizes(staged, split, ids_M, policy) for split, ids_M in samples.items()}
    counts = {
        split: max(1, int(shard_bytes / np.mean(sizes_M)))
        for split, sizes_M in sizes.items()
        if sizes_M
    }
    if not counts:
        raise InputError(
            f"none of {sum(map(len, samples.values()))} sampled images could be used",
            fix="check --images",
        )
    return {split: counts.get(split, min(counts.values())) for split in image_ids}


def _sample(image_ids_N: Ids) -> Ids:
    order = np.argsort(splitmix64(image_ids_N), kind="stable")[:SAMPLE]
    return np.sort(image_ids_N[order])


def _sizes(source: Source, split: str, sample_M: Ids, policy: ImagePolicy) -> list[int]:
    """Measure the bytes that each usable image of a sample takes in a tar."""
    image_ids, sizes = format_image_ids(sample_M), []
    with source.only(image_ids).reader(split, image_ids) as read:
        for image_id in image_ids:
            try:
                sizes.append(len(transcode(read(image_id), policy).data) + OVERHEAD)
            except BadImage:
                continue
    return sizes


def _earlier(shard_bytes: int, output: Path) -> dict[str, int] | None:
    """Read the numbers that this job found when it began; None where it has not."""
    sizing = None
    if (output / MANIFEST_FILE).is_file():
        with contextlib.suppress(DamagedManifest):
            sizing = json.loads(Manifest.read(output).created_by.get(SHARD_BYTES, "null"))
    if sizing is None and (output / UNFINISHED_FILE).is_file():
        sizing = json.loads((output / UNFINISHED_FILE).read_text(encoding="utf-8")).get(SHARD_BYTES)
    return sizing["images"] if sizing is not None and sizing["bytes"] == shard_bytes else None
