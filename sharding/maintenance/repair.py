"""Mending a dataset: what is broken is made again, and nothing else is touched.

Indexes follow from tars, tars from images and labels, the labels that the tars carry from the
tars. What is made again is compared with the manifest's hash: in the usual case it is the same
file as before.

What was set aside, told from other files: the quarantine from the records, and the reverse.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from sharding.dataset.card import write_card
from sharding.dataset.label_versions import carried, write_labels
from sharding.dataset.members import Members, arrange, ids_of, members_in
from sharding.dataset.publish import write_info
from sharding.dataset.quarantine import Quarantine, quarantine_of
from sharding.errors import InputError
from sharding.image_ids import format_image_ids, parse_image_ids
from sharding.labels import LabelTable
from sharding.layout import IMAGES_FOLDER, QUARANTINE_FILE, QUARANTINE_HASH, record_path
from sharding.maintenance.checks import Problem
from sharding.manifest import Dataset, Manifest, ShardRecord
from sharding.openimages.rotations import Rotations, turns
from sharding.shards.dispatch import Workers, write_shards
from sharding.shards.plan import ShardPlan
from sharding.shards.task import Failure, ShardOutcome, ShardTask, read_record
from sharding.shards.transcode import ImagePolicy
from sharding.sources.base import Source
from sharding.storage.files import replacing, write_json
from sharding.storage.tar_index import index_of_tar, read_index


def repair(
    dataset: Dataset, problems: Sequence[Problem], source: Source | None, workers: Workers
) -> Dataset:
    """Mend what can be mended; the manifest is written last, if it has to change at all.

    Verify again afterwards: what could not be mended is still told there.
    """
    by_kind = {kind: {p.path for p in problems if p.kind == kind} for kind in _KINDS}
    for path in by_kind["orphan"]:
        (dataset.directory / path).unlink(missing_ok=True)
    broken = by_kind["tar"]
    manifest = _indexes(dataset, by_kind["index"], broken)
    if source is not None:
        to_carry = _to_carry(manifest)
        tables = {
            split: manifest.labels[name].splits[split].path for split, name in to_carry.items()
        }
        able = {
            shard.path
            for shard in manifest.shards
            if shard.path in broken and tables[shard.split] not in by_kind["labels"]
        }
        manifest = _tars(dataclasses.replace(dataset, manifest=manifest), able, source, workers)
        broken = broken - able
    manifest = _labels(dataclasses.replace(dataset, manifest=manifest), by_kind["labels"], broken)
    mended = dataclasses.replace(dataset, manifest=manifest)
    mend_records(mended, by_kind["record"])
    if by_kind["quarantine"]:
        manifest = mend_quarantine(mended)
    if manifest != dataset.manifest or by_kind["derived"]:
        write_info(dataset.directory, manifest.name, manifest.shards)
        write_card(dataset.directory, manifest, dataset.classes)
        manifest.write(dataset.directory)
    return Dataset.open(dataset.directory)


def read_whole(dataset: Dataset, problems: Sequence[Problem]) -> set[str]:
    """The tars that mending reads: those of broken indexes, and of labels that the tars carry."""
    paths = {problem.path for problem in problems}
    in_tars = carried(dataset.manifest)
    lost = {
        split
        for split, name in in_tars.items()
        if dataset.manifest.labels[name].splits[split].path in paths
    }
    return {
        shard.path
        for shard in dataset.manifest.shards
        if (shard.index in paths or shard.split in lost) and shard.path not in paths
    }


_KINDS = ("tar", "index", "record", "labels", "quarantine", "derived", "orphan")


def _tars(dataset: Dataset, paths: set[str], source: Source, workers: Workers) -> Manifest:
    """Write tars again from the images; one that comes out different replaces its hash."""
    if not paths:
        return dataset.manifest
    rotations = Rotations.of_dataset(dataset.directory, dataset.manifest.created_by)
    to_carry = _to_carry(dataset.manifest)
    tasks, old_records = [], {}
    for shard in dataset.manifest.shards:
        if shard.path not in paths:
            continue
        table = dataset.labels(shard.split, to_carry[shard.split])
        rows_M = np.flatnonzero(np.asarray(table.shards) == shard.path)
        task = ShardTask(
            plan=ShardPlan(
                split=shard.split,
                number=int(Path(shard.path).stem.rpartition("-")[2]),
                image_ids_N=table.image_ids_N[rows_M],
            ),
            labels=table.select(rows_M, [""] * len(rows_M)),
            source=source,
            treatment=ImagePolicy.of_record(dataset.manifest.treatment),
            output=str(dataset.directory.resolve()),
            degrees_N=turns(rotations, table.image_ids_N[rows_M]),
            strict=True,  # an image that is in the dataset must not get lost in its repair
        )
        old_records[task.plan.name] = read_record(task.record)
        tasks.append(task)
    made = {}
    for outcome in write_shards(tasks, workers):
        assert outcome.shard is not None, "a strict task has no failures"
        made[outcome.shard.path] = outcome.shard
        old = old_records[outcome.name]
        if old is not None:
            # The plan had images that failed: keep what the shard job knows it by.
            record = dataclasses.replace(old, shard=outcome.shard)
            write_json(dataset.directory / record_path(outcome.shard.path), record.to_json())
    shards = tuple(made.get(shard.path, shard) for shard in dataset.manifest.shards)
    return dataclasses.replace(dataset.manifest, shards=shards)


def _to_carry(manifest: Manifest) -> dict[str, str]:
    """The label version, by split, that tars are written again with."""
    found = {}
    known = carried(manifest)
    for split in {shard.split for shard in manifest.shards}:
        names = (known.get(split), manifest.default_labels, *manifest.labels)
        found[split] = next(n for n in names if n and split in manifest.labels[n].splits)
    return found


def _indexes(dataset: Dataset, paths: set[str], broken: set[str]) -> Manifest:
    """Write indexes again by reading the headers of tars that are whole."""
    directory, shards = dataset.directory, []
    for shard in dataset.manifest.shards:
        if shard.index in paths and shard.path not in broken:
            content = index_of_tar(directory / shard.path)
            with replacing(directory / shard.index) as temporary:
                temporary.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            shard = dataclasses.replace(shard, index_sha256=digest)
        shards.append(shard)
    return dataclasses.replace(dataset.manifest, shards=tuple(shards))


def _labels(dataset: Dataset, paths: set[str], broken: set[str]) -> Manifest:
    """Rebuild the tables that whole tars carry; others follow from their dump only."""
    manifest = dataset.manifest
    labels = dict(manifest.labels)
    for split, name in carried(manifest).items():
        records = dataset.shards(split)
        if labels[name].splits[split].path not in paths:
            continue
        if not broken.isdisjoint(record.path for record in records):
            continue
        members = [part for part in members_in(dataset) if part.shard.split == split]
        table = arrange(labels_in_tars(dataset.directory, records), members)
        made = write_labels(dataset.directory, name, split, table)
        old = labels[name].splits
        file = dataclasses.replace(made, without_pixels=old[split].without_pixels)
        labels[name] = dataclasses.replace(labels[name], splits={**old, split: file})
    return dataclasses.replace(manifest, labels=labels)


def labels_in_tars(directory: Path, shards: Iterable[ShardRecord]) -> LabelTable:
    """The labels beside the images, in tar order."""
    ids: list[str] = []
    positives: list[list[int]] = []
    negatives: list[list[int]] = []
    owners: list[str] = []
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
                owners.append(shard.path)
    return LabelTable.from_lists(ids, positives, negatives, owners)


def all_failures(directory: Path) -> Quarantine:
    """The images that records tell of; of one that failed twice, what the later record says."""
    found = {}
    for path in sorted((directory / IMAGES_FOLDER).glob("*.json")):
        record = read_record(path)
        for entry in quarantine_of([record] if record else []).entries:
            found[entry.split, entry.image_id] = entry
    return Quarantine(entries=tuple(found.values()))


def known_failures(directory: Path, members: Sequence[Members]) -> Quarantine:
    """The images that records tell of and no tar holds."""
    failures = all_failures(directory)
    for split in {part.shard.split for part in members}:
        failed_N = parse_image_ids(sorted(failures.image_ids(split)))
        held_N = failed_N[np.isin(failed_N, ids_of(split, members))]
        failures = failures.without_images(split, format_image_ids(held_N))
    return failures


def still_listed(directory: Path) -> Quarantine:
    """The table as it is there; empty where it cannot be read."""
    try:
        return Quarantine.read(directory / QUARANTINE_FILE)
    except InputError:
        return Quarantine()


def mend_quarantine(dataset: Dataset) -> Manifest:
    """Write the quarantine again from the records, with the rows that can still be read in it.

    The manifest goes on to know it by the number of its entries, so that rows which are lost are
    missed until the command that set them aside is repeated.
    """
    directory = dataset.directory
    try:
        failures = known_failures(directory, members_in(dataset))
    except InputError:
        return dataset.manifest  # nothing says what the tars hold
    mended = failures.merged(still_listed(directory).rows())
    digest = mended.write(directory / QUARANTINE_FILE)
    whole = len(mended) == dataset.manifest.quarantined
    return dataset.manifest.saying(**{QUARANTINE_HASH: digest}) if whole else dataset.manifest


def mend_records(dataset: Dataset, paths: Collection[str]) -> None:
    """Write records of tars again, with the images set aside that no other record tells of.

    Which of several lost records told of an image is not known any more: the first one does.
    """
    told = {(entry.split, entry.image_id) for entry in all_failures(dataset.directory).entries}
    untold: dict[str, list[Failure]] = {}
    for entry in still_listed(dataset.directory).images().entries:
        if (entry.split, entry.image_id) not in told:
            failure = Failure(image_id=entry.image_id, source=entry.source, reason=entry.reason)
            untold.setdefault(entry.split, []).append(failure)
    for shard in dataset.manifest.shards:
        if record_path(shard.path) in paths:
            record = ShardOutcome(
                name=Path(shard.path).stem,
                shard=shard,
                fingerprint="",
                failures=tuple(untold.pop(shard.split, ())),
            )
            write_json(dataset.directory / record_path(shard.path), record.to_json())
