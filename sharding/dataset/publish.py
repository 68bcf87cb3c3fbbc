"""Publish a dataset or a change of it: tables first, the manifest last, then remove what is old."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharding.classes import ClassTable
from sharding.dataset import confidence_versions
from sharding.dataset.card import write_card
from sharding.dataset.croissant import write_croissant
from sharding.dataset.energon import write_energon
from sharding.dataset.label_versions import (
    NewLabels,
    rearranged,
    remove_outdated_labels,
    withdrawn,
    write_version,
)
from sharding.dataset.members import Members
from sharding.dataset.quarantine import Quarantine
from sharding.layout import (
    ENERGON_FOLDER,
    FILES_OF_IMAGES,
    IMAGES_FOLDER,
    INDEX,
    INFO_FILE,
    QUARANTINE_FILE,
    QUARANTINE_HASH,
    RECORD,
    SPLITS,
    TAR,
    is_energon_index,
    parse_shard_name,
)
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import ShardRecord
from sharding.storage.files import transaction, write_json
from sharding.storage.parquet import remove_rows


def publish(
    dataset: Dataset,
    new: NewLabels,
    members: Sequence[Members],
    quarantine: Quarantine,
    **changes: Any,
) -> None:
    """Write a label version over the tars named, and all other tables too if the tars changed.

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
            changes["confidences"] = confidence_versions.rearranged(dataset, members)
        labels = {**others, new.name: version}
        manifest = _write(dataset, quarantine, labels=labels, shards=shards, **changes)
    remove_outdated(directory, manifest)


def publish_removal(
    dataset: Dataset, members: Sequence[Members], created_by: Mapping[str, str]
) -> None:
    """Take the images that the manifest names as removed out of every table.

    Args:
        dataset: as it is.
        members: all tars of the dataset from now on, none of which has the images.
        created_by: of the manifest from now on; hashes of tables are set here.

    Raises:
        InputError: the disk is full, or a table is missing or damaged; the dataset is then as it
            was.
    """
    directory, removed = dataset.directory, dataset.manifest.removed or ()
    for path in (directory / ENERGON_FOLDER).glob("*"):  # Energon's own index lists all ids
        if is_energon_index(path.relative_to(directory).as_posix()):
            path.unlink()
    quarantine = Quarantine.read(directory / QUARANTINE_FILE).without_ids(frozenset(removed))
    shards = tuple(sorted((part.shard for part in members), key=lambda shard: shard.path))
    with transaction():
        labels = {name: withdrawn(dataset, name, members) for name in dataset.manifest.labels}
        hashes = {
            key: remove_rows(directory / name, "image_id", removed)
            for key, name in FILES_OF_IMAGES.items()
            if key in created_by
        }
        manifest = _write(
            dataset,
            quarantine,
            labels=labels,
            shards=shards,
            confidences=confidence_versions.rearranged(dataset, members),
            created_by={**created_by, **hashes},
        )
    remove_outdated(directory, manifest)


def _write(dataset: Dataset, quarantine: Quarantine, **changes: Any) -> Manifest:
    """Write the quarantine, what follows from the changed manifest, and then the manifest."""
    digest = quarantine.write(dataset.directory / QUARANTINE_FILE)
    manifest = dataclasses.replace(
        dataset.manifest, quarantined=len(quarantine), **changes
    ).with_provenance(**{QUARANTINE_HASH: digest})
    write_manifest(dataset.directory, manifest, dataset.classes)
    return manifest


def write_manifest(directory: Path, manifest: Manifest, classes: ClassTable) -> None:
    """Write what follows from a manifest, for people and other programs, and then the manifest."""
    write_json(directory / INFO_FILE, info(manifest.name, manifest.shards))
    write_card(directory, manifest, classes)
    write_croissant(directory, manifest)
    write_energon(directory, manifest)
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
    confidence_versions.remove_unnamed(directory, manifest)
    named = {path for shard in manifest.shards for path in (shard.path, shard.index)}
    unused = {split: manifest.next_number(split) for split in SPLITS}
    for path in (directory / IMAGES_FOLDER).glob(f"*{TAR}{INDEX}"):  # Energon's, of each tar
        if f"{IMAGES_FOLDER}/{path.stem}" not in named and is_energon_index(
            path.relative_to(directory).as_posix()
        ):
            path.unlink()
    for path in sorted((directory / IMAGES_FOLDER).glob("*")):
        parsed = parse_shard_name(path.name)
        if parsed is None or f"{IMAGES_FOLDER}/{path.name}" in named:
            continue
        split, number = parsed
        without_tar = path.suffix == RECORD and not path.with_suffix(TAR).exists()
        if number < unused[split] or without_tar:
            path.unlink()
