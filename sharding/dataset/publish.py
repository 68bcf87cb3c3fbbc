"""Publish a dataset or a change of it: tables first, the manifest last, then remove what is old."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharding.classes import ClassTable
from sharding.dataset.card import write_card
from sharding.dataset.label_versions import (
    NewLabels,
    rearranged,
    remove_outdated_labels,
    write_version,
)
from sharding.dataset.members import Members
from sharding.dataset.quarantine import Quarantine
from sharding.layout import (
    IMAGES_FOLDER,
    INFO_FILE,
    QUARANTINE_FILE,
    QUARANTINE_HASH,
    RECORD,
    TAR,
    parse_shard_name,
)
from sharding.manifest import Dataset, Manifest, ShardRecord
from sharding.storage.files import transaction, write_json


def publish(
    dataset: Dataset,
    new: NewLabels,
    members: Sequence[Members],
    quarantine: Quarantine,
    **changes: Any,
) -> None:
    """Write a label version over the tars named, and the other versions too if the tars changed.

    Args:
        dataset: as it is; a new one has a manifest without labels and shards.
        new: the label version to write or replace.
        members: all tars of the dataset from now on.
        quarantine: the whole table.
        changes: further fields of the manifest.

    Raises:
        InputError: the disk is full, or a table of another version is missing or damaged; the
            dataset is then as it was.
    """
    directory, manifest = dataset.directory, dataset.manifest
    shards = tuple(sorted((part.shard for part in members), key=lambda shard: shard.path))
    with transaction():
        version = write_version(directory, new, members)
        others = {name: old for name, old in manifest.labels.items() if name != new.name}
        if shards != manifest.shards:
            others = {name: rearranged(dataset, name, members) for name in others}
        digest = quarantine.write(directory / QUARANTINE_FILE)
        manifest = dataclasses.replace(
            manifest,
            labels={**others, new.name: version},
            shards=shards,
            quarantined=len(quarantine),
            **changes,
        ).with_provenance(**{QUARANTINE_HASH: digest})
        write_manifest(directory, manifest, dataset.classes)
    remove_outdated(directory, manifest)


def write_manifest(directory: Path, manifest: Manifest, classes: ClassTable) -> None:
    """Write what follows from a manifest, `_info.json` and the card, and then the manifest."""
    write_json(directory / INFO_FILE, info(manifest.name, manifest.shards))
    write_card(directory, manifest, classes)
    manifest.write(directory)


def info(name: str, shards: Sequence[ShardRecord]) -> dict[str, Any]:
    """Make the content of `_info.json`: splits, files and lengths, as timm reads them."""
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


def remove_outdated(directory: Path, manifest: Manifest) -> None:
    """Remove files that a written manifest has replaced; call it again after a kill.

    These are label tables of images that have their pixels now, tars that a rewrite replaced, and
    records: bookkeeping of jobs that is of no use once their shards are in the manifest. Shards
    of a killed job, which its repetition continues, have numbers that are not in use yet.
    """
    remove_outdated_labels(directory, manifest)
    named = {path for shard in manifest.shards for path in (shard.path, shard.index)}
    splits = {shard.split for shard in manifest.shards}
    unused = {split: manifest.next_number(split) for split in splits}
    for path in sorted((directory / IMAGES_FOLDER).glob("*")):
        parsed = parse_shard_name(path.name)
        if parsed is None or f"{IMAGES_FOLDER}/{path.name}" in named:
            continue
        split, number = parsed
        without_tar = path.suffix == RECORD and not path.with_suffix(TAR).exists()
        if number < unused.get(split, 0) or without_tar:
            path.unlink()
