"""Making a change of a finished dataset count: every table first, the manifest last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharding.dataset.card import write_card
from sharding.dataset.label_versions import NewLabels, label_version, rearranged, remove_settled
from sharding.dataset.members import Members
from sharding.dataset.quarantine import Quarantine
from sharding.layout import INFO_FILE, QUARANTINE_FILE, QUARANTINE_HASH
from sharding.manifest import Dataset, Manifest, ShardRecord
from sharding.storage.files import transaction, write_json


def publish(
    dataset: Dataset,
    new: NewLabels,
    members: Sequence[Members],
    quarantine: Quarantine,
    **changes: Any,
) -> None:
    """Write a label version over the tars named; bring the others along if the tars changed.

    Args:
        dataset: as it is.
        new: the label version to write or replace.
        members: all tars that shall count from now on.
        quarantine: the whole table.
        changes: further fields of the manifest.
    """
    directory, manifest = dataset.directory, dataset.manifest
    shards = tuple(sorted((part.shard for part in members), key=lambda shard: shard.path))
    with transaction():
        version = label_version(directory, new, members)
        others = {name: old for name, old in manifest.labels.items() if name != new.name}
        if shards != manifest.shards:
            others = {name: rearranged(dataset, name, members) for name in others}
        digest = quarantine.write(directory / QUARANTINE_FILE)
        write_info(directory, manifest.name, shards)
        changed: Manifest = dataclasses.replace(
            manifest,
            labels={**others, new.name: version},
            shards=shards,
            quarantined=len(quarantine),
            **changes,
        )
        changed = changed.saying(**{QUARANTINE_HASH: digest})
        write_card(directory, changed, dataset.classes)
        changed.write(directory)
    remove_settled(directory, changed)


def info(name: str, shards: Sequence[ShardRecord]) -> dict[str, Any]:
    """Splits, files and lengths, as timm reads them from `_info.json`."""
    splits: dict[str, dict[str, Any]] = {}
    for shard in shards:
        split = splits.setdefault(
            shard.split,
            {"name": shard.split, "num_samples": 0, "filenames": [], "shard_lengths": []},
        )
        split["num_samples"] += shard.images
        split["filenames"].append(shard.path)
        split["shard_lengths"].append(shard.images)
    return {"name": name, "splits": splits}


def write_info(directory: Path, name: str, shards: Sequence[ShardRecord]) -> None:
    """Write `_info.json`."""
    write_json(directory / INFO_FILE, info(name, shards))
