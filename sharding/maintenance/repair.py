"""Repair a dataset: make again what is broken, and touch nothing else.

Indexes follow from tars, tars from images and labels, and the labels in the tars from the tars. A
file that is made again is in the usual case the same file as before; where it is not, the manifest
gets its new hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from sharding.dataset.label_versions import labels_to_repair_with, tar_labels, write_labels
from sharding.dataset.publish import remove_outdated, write_manifest
from sharding.labels import LabelTable
from sharding.layout import DUPLICATES, INDEX, RECORD, SET_ASIDE_FOLDER, TAR, UNCOUNTED
from sharding.maintenance.problems import Kind, Problem
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import ShardRecord
from sharding.openimages.rotations import Rotations
from sharding.shards.dispatch import Workers, write_shards
from sharding.shards.plan import ShardPlan
from sharding.shards.task import ShardTask
from sharding.shards.transcode import ImagePolicy
from sharding.sources.base import Source
from sharding.storage.files import replacing
from sharding.storage.tar_index import index_of_tar, read_index


def repair(
    dataset: Dataset,
    problems: Sequence[Problem],
    source: Source | None,
    workers: Workers,
    *,
    accept_changed: bool = False,
) -> Dataset:
    """Mend what can be mended; the manifest is written last, if it has to change at all.

    Args:
        dataset: opened.
        problems: as `sharding.maintenance.checks` finds them; those that follow from a dump alone
            are left, so check again afterwards.
        source: images for tars that have to be written again; without it those are left.
        workers: perform shard tasks.
        accept_changed: whether a tar may get other pictures than it had.

    Raises:
        InputError: an image of a broken tar cannot be used, or is another one than it was.
    """
    for path in _paths(problems, Kind.ORPHAN):
        (dataset.directory / path).unlink(missing_ok=True)
    manifest = _rebuild_indexes(dataset, _paths(problems, Kind.INDEX))
    if source is not None:
        waiting = {problem.path for problem in problems if problem.labels}
        tars = _paths(problems, Kind.TAR) - waiting
        manifest = _rewrite_tars(_with(dataset, manifest), tars, source, workers, accept_changed)
    manifest = _rebuild_labels(_with(dataset, manifest), _paths(problems, Kind.TAR_LABELS))
    if manifest != dataset.manifest or _paths(problems, Kind.DERIVED):
        write_manifest(dataset.directory, manifest, dataset.classes)
    remove_outdated(dataset.directory, manifest)
    return Dataset.open(dataset.directory)


def set_aside(
    directory: Path, tars: Iterable[str], move: Callable[[str, str], None]
) -> dict[str, str]:
    """Move tars with their indexes and records into a new folder of the dataset.

    Args:
        directory: of the dataset.
        tars: paths relative to it.
        move: gives a file another path, both relative to the dataset.

    Returns:
        The new path of each tar.
    """
    folders = (f"{SET_ASIDE_FOLDER}/{number}" for number in itertools.count(1))
    folder = next(folder for folder in folders if not (directory / folder).exists())
    moved = {path: f"{folder}/{path}" for path in tars}
    for path in moved:
        for suffix in (RECORD, INDEX, TAR):
            file = Path(path).with_suffix(suffix).as_posix()
            if (directory / file).exists():
                move(file, f"{folder}/{file}")
    return moved


def tars_to_read(dataset: Dataset, problems: Sequence[Problem]) -> set[str]:
    """Name the tars that mending reads: those of broken indexes and of broken tar labels."""
    indexes, tables = _paths(problems, Kind.INDEX), _paths(problems, Kind.TAR_LABELS)
    splits = {
        split
        for split, name in tar_labels(dataset.manifest).items()
        if dataset.manifest.labels[name].splits[split].path in tables
    }
    return {
        shard.path
        for shard in dataset.manifest.shards
        if shard.index in indexes or shard.split in splits
    }


def _paths(problems: Iterable[Problem], kind: Kind) -> set[str]:
    return {problem.path for problem in problems if problem.kind is kind}


def _with(dataset: Dataset, manifest: Manifest) -> Dataset:
    return dataclasses.replace(dataset, manifest=manifest)


def _rebuild_indexes(dataset: Dataset, paths: Collection[str]) -> Manifest:
    """Write indexes again by reading the headers of their tars."""
    directory, shards = dataset.directory, []
    for shard in dataset.manifest.shards:
        if shard.index in paths:
            content = index_of_tar(directory / shard.path)
            with replacing(directory / shard.index) as temporary:
                temporary.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            shard = dataclasses.replace(shard, index_sha256=digest)
        shards.append(shard)
    return dataclasses.replace(dataset.manifest, shards=tuple(shards))


def _rewrite_tars(
    dataset: Dataset,
    paths: Collection[str],
    source: Source,
    workers: Workers,
    accept_changed: bool,
) -> Manifest:
    """Write tars again from the images, each with the images that it held."""
    if not paths:
        return dataset.manifest
    manifest = dataset.manifest
    rotations = Rotations.of_dataset(dataset.directory, manifest.created_by)
    labels = {
        split: dataset.labels(split, name)
        for split, name in labels_to_repair_with(manifest).items()
        if any(shard.path in paths for shard in manifest.shards if shard.split == split)
    }
    tasks = [
        dataclasses.replace(
            ShardTask.of(
                _plan(shard, labels[shard.split]),
                labels[shard.split],
                source,
                ImagePolicy.of_record(manifest.treatment),
                dataset.directory,
                rotations=rotations,
                strict=True,  # an image that is in the dataset must not get lost in its repair
            ),
            replaces=None if accept_changed else shard.sha256,
        )
        for shard in manifest.shards
        if shard.path in paths
    ]
    written = {
        outcome.shard.path: outcome.shard
        for outcome in write_shards(tasks, workers)
        if outcome.shard is not None
    }
    shards = tuple(written.get(shard.path, shard) for shard in manifest.shards)
    if any(old.sha256 != new.sha256 for old, new in zip(manifest.shards, shards, strict=True)):
        manifest = manifest.with_provenance(**{DUPLICATES: UNCOUNTED})  # other pictures
    return dataclasses.replace(manifest, shards=shards)


def _plan(shard: ShardRecord, table: LabelTable) -> ShardPlan:
    """Plan a shard of the images that a table says its tar holds."""
    image_ids_M = table.image_ids_N[np.asarray(table.shards) == shard.path]
    return ShardPlan(split=shard.split, number=shard.number, image_ids_N=image_ids_M)


def _rebuild_labels(dataset: Dataset, paths: Collection[str]) -> Manifest:
    """Write label tables again from the labels in the tars."""
    manifest = dataset.manifest
    labels = dict(manifest.labels)
    for split, name in tar_labels(manifest).items():
        tables = labels[name].splits
        if tables[split].path not in paths:
            continue
        table = labels_in_tars(dataset.directory, dataset.shards(split))
        file = write_labels(dataset.directory, name, split, table)
        file = dataclasses.replace(file, without_pixels=tables[split].without_pixels)
        labels[name] = dataclasses.replace(labels[name], splits={**tables, split: file})
    return dataclasses.replace(manifest, labels=labels)


def labels_in_tars(directory: Path, shards: Iterable[ShardRecord]) -> LabelTable:
    """Read the labels that tars hold with their images, in tar order."""
    ids: list[str] = []
    positives: list[list[int]] = []
    negatives: list[list[int]] = []
    paths: list[str] = []
    for shard in shards:
        index = read_index(directory / shard.index)
        with open(directory / shard.path, "rb") as tar:
            for image_id, components in index.items():
                offset, size = components["json"]
                tar.seek(offset)
                label = json.loads(tar.read(size))
                ids.append(image_id)
                positives.append(label["positives"])
                negatives.append(label["negatives"])
                paths.append(shard.path)
    return LabelTable.from_lists(ids, positives, negatives, paths)
