"""How many images make a shard of so many bytes: from a sample, treated as the job will treat it.

The plan has to stand before the first image is read, or a missing image would move others to
another shard. The sample is the images first by hash, so that repeating the command finds the same
number; the number found first is kept where the images have changed since.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharding.encoded import BadImage
from sharding.errors import InputError
from sharding.ids import format_image_ids
from sharding.images import Treatment, treat
from sharding.manifest import FILE, Manifest
from sharding.plan import splitmix64
from sharding.sources import Source
from sharding.unfinished import FILE as UNFINISHED

SAMPLE = 200
BESIDE = 2048
"""Bytes of two headers, a label and padding, beside each image."""
MARGIN = 1.05
"""Over the mean: a sample errs, and the fullest shard is fuller than the mean one."""
KEY = "shard_bytes"


def images_for_bytes(
    shard_bytes: int,
    split: str,
    image_ids_N: npt.NDArray[np.uint64],
    source: Source,
    treatment: Treatment,
    output: Path,
) -> int:
    """Images of ``split`` in a shard of ``shard_bytes`` bytes.

    Raises:
        InputError: the images can only be read from front to end, or none of the sample is usable.
    """
    earlier = _earlier(shard_bytes, output)
    if earlier is not None:
        return earlier
    if not source.at_random:
        raise InputError(
            "--shard-bytes needs a sample of images, and compressed archives are read in one pass",
            fix="give --images-per-shard instead (315 KB is the mean of the mirror's images)",
        )
    order = np.argsort(splitmix64(image_ids_N), kind="stable")[:SAMPLE]
    sample_M = np.sort(image_ids_N[order])
    image_ids = format_image_ids(sample_M)
    sizes = []
    with (
        source.staged(sample_M, output, map) as staged,
        staged.only(image_ids).reader(split, image_ids) as reader,
    ):
        for image_id in image_ids:
            try:
                sizes.append(len(treat(reader.read(image_id), treatment).data) + BESIDE)
            except BadImage:
                continue
    if not sizes:
        raise InputError(
            f"none of {len(image_ids)} sampled images could be used", fix="check --images"
        )
    return max(1, int(shard_bytes / (MARGIN * float(np.mean(sizes)))))


def _earlier(shard_bytes: int, output: Path) -> int | None:
    """The number that this job found when it began."""
    if (output / FILE).is_file():
        manifest = Manifest.read(output)
        known = manifest.created_by.get(KEY) == str(shard_bytes)
        return manifest.images_per_shard if known else None
    if (output / UNFINISHED).is_file():
        begun = json.loads((output / UNFINISHED).read_text(encoding="utf-8"))
        return int(begun["images_per_shard"]) if begun.get(KEY) == shard_bytes else None
    return None
