"""Write and read label versions: for each split a table over the shards and one of other images.

A dump labels more images than have pixels. The rows of a split's table follow its shards; the rows
of images that no tar holds yet are in a second table, so that every version has its labels of them
when a later job gives them their pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharding.dataset.members import Members
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import Ids, format_image_ids
from sharding.labels import POSITIVE, LabelTable
from sharding.layout import SPLITS, TAR_LABELS, WITHOUT_PIXELS, labels_path, wanted_path
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import LabelFile, LabelVersion
from sharding.openimages.annotations import SplitLabels
from sharding.storage.files import replacing

IMAGES_REMOVED = "images_removed"
"""Key of a version's report: images that it labelled and that were taken down."""


@dataclass(frozen=True, kw_only=True)
class NewLabels:
    """Hold the labels of a dump, over all images it names, before they become a label version.

    Attributes:
        name: of the version.
        release: of the dump.
        policy: how rows became labels, as the manifest records it.
        splits: labels by split.
        removed: ids of images that were left out, as they were taken down.
    """

    name: str
    release: str
    policy: Mapping[str, Any]
    splits: Mapping[str, SplitLabels]
    removed: frozenset[str] = frozenset()

    @property
    def rejected_rows(self) -> Quarantine:
        """The annotation rows that were set aside."""
        parts = [
            Quarantine.of_rejected_rows(split, labels.rejected_rows)
            for split, labels in self.splits.items()
        ]
        return Quarantine().merged(*parts).without_ids(self.removed)

    def without(self, image_ids_M: Ids) -> NewLabels:
        """Leave out images that were taken down, their labels and what was rejected about them."""
        if not len(image_ids_M):
            return self
        splits = {}
        for split, labels in self.splits.items():
            table = _without(labels.table, image_ids_M)
            report = {**labels.report, IMAGES_REMOVED: len(labels.table) - len(table)}
            splits[split] = dataclasses.replace(labels, table=table, report=report)
        removed = frozenset(format_image_ids(image_ids_M))
        return dataclasses.replace(self, splits=splits, removed=removed)


def write_version(directory: Path, new: NewLabels, members: Sequence[Members]) -> LabelVersion:
    """Write the tables of a label version, and the list of its images that have no pixels."""
    tables = {split: labels.table for split, labels in new.splits.items()}
    version = LabelVersion(
        release=new.release,
        sources={k: v for labels in new.splits.values() for k, v in labels.sources.items()},
        policy=new.policy,
        report={
            split: {**labels.report, "unknown_mids": len(labels.unknown_mids)}
            for split, labels in new.splits.items()
        },
        splits={},
    )
    return _write_tables(directory, new.name, version, tables, members)


def rearranged(dataset: Dataset, name: str, members: Sequence[Members]) -> LabelVersion:
    """Write the tables of an existing label version again, over other tars than before.

    Raises:
        InputError: one of its tables is missing or damaged.
    """
    version = dataset.manifest.labels[name]
    tables = {split: all_labels(dataset, split, name) for split in version.splits}
    return _write_tables(dataset.directory, name, version, tables, members)


def withdrawn(dataset: Dataset, name: str, members: Sequence[Members]) -> LabelVersion:
    """Write the tables of a label version again without the images that the manifest has removed.

    How many the version had lost stands in its report; it follows from the manifest's counts, as a
    job that was killed before may have written the tables already.

    Raises:
        InputError: one of its tables is missing or damaged.
    """
    old = dataset.manifest.labels[name]
    removed_M = dataset.manifest.removed_ids
    tables = {s: _without(all_labels(dataset, s, name), removed_M) for s in old.splits}
    new = _write_tables(dataset.directory, name, old, tables, members)
    report = dict(new.report)
    for split, file in new.splits.items():
        before = old.splits[split].images + old.splits[split].images_without_pixels
        gone = before - file.images - file.images_without_pixels
        known = report[split].get(IMAGES_REMOVED, 0)
        report[split] = {**report[split], IMAGES_REMOVED: known + gone}
    return dataclasses.replace(new, report=report)


def _write_tables(
    directory: Path,
    name: str,
    version: LabelVersion,
    tables: Mapping[str, LabelTable],
    members: Sequence[Members],
) -> LabelVersion:
    files, report, wanted = {}, dict(version.report), []
    for split in sorted(tables, key=SPLITS.index):
        table = tables[split]
        arranged = arrange(table, split, members)
        others = _without(table, arranged.image_ids_N)
        file = write_labels(directory, name, split, arranged)
        if len(others):
            other_file = write_labels(directory, name, f"{split}{WITHOUT_PIXELS}", others)
            file = dataclasses.replace(file, without_pixels=other_file)
        files[split] = file
        report[split] = {**report.get(split, {}), "images_without_pixels": len(others)}
        wanted += [f"{split}/{image_id}\n" for image_id in format_image_ids(others.image_ids_N)]
    if wanted:
        with replacing(directory / wanted_path(name)) as temporary:
            temporary.write_text("".join(wanted), encoding="ascii")
    return dataclasses.replace(version, splits=files, report=report)


def write_labels(directory: Path, name: str, split: str, table: LabelTable) -> LabelFile:
    """Write a label table of a version, under the name of its split."""
    path = labels_path(name, split)
    digest = table.write(directory / path)
    positives = int(np.count_nonzero(table.states_E == POSITIVE))
    return LabelFile(
        path=path,
        images=len(table),
        positives=positives,
        negatives=len(table.states_E) - positives,
        sha256=digest,
    )


def arrange(table: LabelTable, split: str, members: Sequence[Members]) -> LabelTable:
    """Select the rows of the tars' images, in tar order; unknown images get rows without labels."""
    parts = [part for part in members if part.shard.split == split]
    parts.sort(key=lambda part: part.shard.path)
    image_ids_N = np.concatenate([np.empty(0, np.uint64), *(part.image_ids_N for part in parts)])
    shards = [part.shard.path for part in parts for _ in range(len(part.image_ids_N))]
    return table.select(image_ids_N, shards)


def _without(table: LabelTable, image_ids_M: Ids) -> LabelTable:
    """Select the rows of other images than these, by id."""
    return table.select(np.setdiff1d(table.image_ids_N, image_ids_M))


def all_labels(dataset: Dataset, split: str, name: str) -> LabelTable:
    """Read all labels of a version in a split: rows over the shards, then those of other images.

    Raises:
        InputError: there is no such version or split, or a table is missing or damaged.
    """
    table, others = dataset.labels(split, name), labels_without_pixels(dataset, split, name)
    if not len(others):
        return table
    # A job killed between the two files has left rows in both.
    return LabelTable.concatenate(table, _without(others, table.image_ids_N))


def labels_without_pixels(dataset: Dataset, split: str, name: str) -> LabelTable:
    """Read the rows of images that a version labels and no tar holds, by id.

    Raises:
        InputError: the table is missing or damaged.
    """
    file = dataset.manifest.labels[name].splits[split].without_pixels
    if file is None:
        return LabelTable.from_lists([], [], [])
    try:
        return LabelTable.read(dataset.directory / file.path)
    except InputError as error:
        raise InputError(error.problem, file=error.file, fix=how_to_rewrite(name)) from None


def how_to_rewrite(name: str) -> str:
    """Say what mends a table that follows from nothing but the annotations."""
    return (
        f"repeat the command that wrote labels {name}, "
        f"or reshard with --labels {name} and what it was made of"
    )


def remove_outdated_labels(directory: Path, manifest: Manifest) -> None:
    """Remove tables and lists of images without pixels that a written manifest does not have."""
    named = {file.path for version in manifest.labels.values() for file in version.files}
    for name, version in manifest.labels.items():
        for path in directory.glob(labels_path(name, f"*{WITHOUT_PIXELS}")):
            if path.relative_to(directory).as_posix() not in named:
                path.unlink()
        if not any(file.without_pixels for file in version.splits.values()):
            (directory / wanted_path(name)).unlink(missing_ok=True)


def tar_labels(manifest: Manifest) -> dict[str, str]:
    """Look up the label version in the tars, by split; a split whose tars hold several has none."""
    created_by = manifest.created_by
    names = {
        shard.split: created_by.get(f"{TAR_LABELS}/{shard.split}", created_by.get(TAR_LABELS))
        for shard in manifest.shards
    }
    return {split: name for split, name in names.items() if name is not None}


def with_tar_labels(
    created_by: Mapping[str, str], by_split: Mapping[str, str], splits: Collection[str]
) -> dict[str, str]:
    """Copy a manifest's ``created_by`` with the label version in the tars of these splits."""
    names = {by_split.get(split, "") for split in splits}
    if len(names) == 1 and "" not in names:
        keys = {TAR_LABELS: names.pop()}
    else:
        keys = {f"{TAR_LABELS}/{split}": by_split[split] for split in splits if split in by_split}
    rest = {k: v for k, v in created_by.items() if k.partition("/")[0] != TAR_LABELS}
    return {**rest, **keys}


def labels_to_repair_with(manifest: Manifest) -> dict[str, str]:
    """Choose the label version, by split, that lost tars are written again with.

    It is the one in the tars; where they hold several, the default one, or any that has the split.
    """
    known, chosen = tar_labels(manifest), {}
    for split in {shard.split for shard in manifest.shards}:
        names = (known.get(split), manifest.default_labels, *manifest.labels)
        chosen[split] = next(n for n in names if n and split in manifest.labels[n].splits)
    return chosen
