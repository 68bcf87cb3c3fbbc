"""Describe a dataset to NVIDIA's Megatron-Energon: the files of `.nv-meta/` that say what is where.

Energon's own index of every tar is made by `energon prepare --tar-index-only`, which asks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sharding.layout import ENERGON_DATASET_FILE, ENERGON_INFO_FILE, ENERGON_SPLIT_FILE, SPLITS
from sharding.manifest import Manifest
from sharding.storage.files import replacing, stable_json

_PARTS = dict(zip(SPLITS, ("train", "val", "test"), strict=True))
"""Energon's names of the splits."""
_DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"


def write_energon(directory: Path, manifest: Manifest) -> None:
    """Write the files atomically."""
    for name, text in energon(manifest).items():
        with replacing(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def energon(manifest: Manifest) -> Mapping[str, str]:
    """Compose the files by path: the loader, the tars of each split, their numbers of samples."""
    parts: dict[str, list[str]] = {part: [] for part in _PARTS.values()}
    for shard in manifest.shards:
        parts[_PARTS[shard.split]].append(shard.path)
    lines = [
        line
        for part, tars in parts.items()
        for line in (f"  {part}:{'' if tars else ' []'}", *(f"  - {tar}" for tar in tars))
    ]
    return {
        ENERGON_DATASET_FILE: _DATASET,
        ENERGON_SPLIT_FILE: "\n".join(["exclude: []", "split_parts:", *lines, ""]),
        ENERGON_INFO_FILE: stable_json(
            {"shard_counts": {shard.path: shard.images for shard in manifest.shards}}
        ),
    }
