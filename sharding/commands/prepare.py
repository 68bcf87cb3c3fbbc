"""Prepare the shard job: read labels and classes, plan the shards, identify the command."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from sharding import log
from sharding.classes import ClassTable
from sharding.commands.options import ReshardOptions, ShardOptions
from sharding.dataset.label_versions import NewLabels
from sharding.errors import InputError, command
from sharding.image_ids import Ids
from sharding.layout import (
    ATTRIBUTION_FILE,
    ATTRIBUTION_HASH,
    CLASSES_FILE,
    CLASSES_HASH,
    GROUPS_OF,
    PLAN,
    ROTATIONS_FILE,
    ROTATIONS_HASH,
    SHARD_BYTES,
)
from sharding.manifest import Manifest
from sharding.openimages.annotations import AnnotationPolicy, SplitLabels, read_splits
from sharding.openimages.class_list import read_classes
from sharding.openimages.dump import Dump
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.image_lists import count_listed, write_attribution
from sharding.openimages.rotations import Rotations, read_rotation_lists
from sharding.shards.plan import SHARDS_PER_RANK, ShardPlan, choose_num_shards, plan_split
from sharding.shards.sizing import images_for_bytes
from sharding.shards.task import FORMAT, ShardTask
from sharding.shards.transcode import ImagePolicy
from sharding.sources.base import Source
from sharding.sources.open import open_source


@dataclass(frozen=True, kw_only=True)
class Job:
    """Hold a planned sharding job.

    Attributes:
        options: as given; images per shard follow from bytes per shard where these are given.
        classes: the class table with its groups.
        labels: of all images of the dump.
        source: where the images come from.
        plans: shards by split.
        rotations: of images that have to be turned; None where no list was given.
        image_lists: of the dump, by split, as far as it has any.
        most_images: images in a shard of each split, where bytes bound the shards.
    """

    options: ShardOptions
    classes: ClassTable
    labels: NewLabels
    source: Source
    plans: Mapping[str, tuple[ShardPlan, ...]]
    rotations: Rotations | None = None
    image_lists: Mapping[str, DumpFile] = field(default_factory=dict)
    most_images: Mapping[str, int] | None = None

    @property
    def output(self) -> Path:
        """Directory of the dataset."""
        return Path(self.options.output)

    @property
    def treatment(self) -> ImagePolicy:
        """What is done to the pixels."""
        return _image_policy(self.options)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the dataset's content, but for the images themselves."""
        splits = self.labels.splits.values()
        identity: dict[str, Any] = {
            "format": FORMAT,
            "labels": self.labels.name,
            "annotations": {name: sha for split in splits for name, sha in split.sources.items()},
            "policy": self.labels.policy,
            "classes_sha256": self.classes.sha256,
            "group_by": self.options.group_by,
            "seed": self.options.seed,
            "images_per_shard": self.options.images_per_shard,
            "shards": {split: len(plans) for split, plans in self.plans.items()},
            "treatment": dict(self.treatment.record()),
        }
        if self.rotations is not None:
            identity["rotations"] = self.rotations.sha256
        if self.most_images is not None:
            identity[SHARD_BYTES] = self._shard_bytes
        return identity

    @property
    def digest(self) -> str:
        """Hash of the identity, for the manifest."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def made(self, manifest: Manifest) -> bool:
        """Tell whether an earlier run of this command wrote a manifest."""
        return manifest.created_by.get(PLAN) == self.digest

    def tasks(self) -> Iterator[ShardTask]:
        """Make the task of every shard."""
        for split, plans in self.plans.items():
            table = self.labels.splits[split].table
            for plan in plans:
                yield ShardTask.of(
                    plan,
                    table,
                    self.source,
                    self.treatment,
                    self.output,
                    rotations=self.rotations,
                    strict=self.options.strict,
                )

    def without(self, image_ids_M: Ids) -> Self:
        """Leave out images that were taken down since the job's first run."""
        labels = self.labels.without(image_ids_M)
        rotations = self.rotations and self.rotations.without(image_ids_M)
        return dataclasses.replace(self, labels=labels, rotations=rotations)

    @property
    def images_fix(self) -> str:
        """Say what to do where no image was found."""
        return "give the folder that holds <id>.jpg or <split>/<id>.jpg of this dump"

    @property
    def relabel_fix(self) -> str:
        """Say, after another fix, how new labels come over the images of a finished dataset."""
        arguments = ("--dataset", self.output, "--annotations", self.options.annotations)
        return f", or for new annotations run {command('reshard', *arguments)}"

    def write_side_files(self) -> dict[str, str]:
        """Write what follows from the dump alone; returns the entries of ``created_by`` for it."""
        return {
            CLASSES_HASH: self.classes.write(self.output / CLASSES_FILE),
            **self.write_extras(),
        }

    def write_extras(self) -> dict[str, str]:
        """Write the side files of this kind of job; returns the entries of ``created_by``."""
        extras = {}
        if self.rotations is not None:
            extras[ROTATIONS_HASH] = self.rotations.write(self.output / ROTATIONS_FILE)
        tables = {split: labels.table for split, labels in self.labels.splits.items()}
        attribution = write_attribution(self.output / ATTRIBUTION_FILE, self.image_lists, tables)
        if attribution is not None:
            extras[ATTRIBUTION_HASH] = attribution
        if "train" not in self.labels.splits:
            extras[GROUPS_OF] = " and ".join(self.labels.splits)
        if self.most_images is not None:
            extras[SHARD_BYTES] = json.dumps(self._shard_bytes, sort_keys=True)
        return extras

    @property
    def _shard_bytes(self) -> dict[str, Any]:
        return {"bytes": self.options.shard_bytes, "images": self.most_images}


def open_dump(options: ShardOptions | ReshardOptions) -> Dump:
    """Open the dump or export that the options name, and log what is odd about it."""
    assert options.annotations is not None  # else labels are derived from others
    dump = Dump.open(options.annotations, options.release, options.name)
    for remark in dump.remarks:
        log.info(remark)
    return dump


def annotation_policy(options: ShardOptions | ReshardOptions) -> AnnotationPolicy:
    """Make the policy by which rows become labels."""
    return AnnotationPolicy(
        conflict=options.conflict, machine=options.machine, strict=options.strict
    )


def prepare(options: ShardOptions) -> Job:
    """Read the dump and plan the shards.

    Raises:
        InputError: anything about the input that a user can mend.
    """
    _image_policy(options)  # refuse bad options before the dump is read
    dump = open_dump(options)
    if dump.release == "export":
        raise InputError(
            "an export labels images of an existing dataset",
            file=options.annotations,
            fix="run "
            + command("reshard", "--dataset", "DATASET", "--annotations", options.annotations),
        )
    if "train" not in dump.splits:
        log.info(f"note: no train labels; groups are cut by {' and '.join(dump.splits)}")
    source = open_source(options.images, options.fetch, dump)
    policy = annotation_policy(options)
    mids, names = zip(*read_classes(dump), strict=True)
    labels = read_splits(dump, mids, policy)
    refuse_empty(labels, options)
    listed = {split: count_listed(dump, split, part.table) for split, part in labels.items()}
    labels = {
        split: dataclasses.replace(part, report={**part.report, **listed[split]})
        for split, part in labels.items()
    }
    most_images = _most_images(options, labels, source)
    if most_images is not None:
        options = dataclasses.replace(options, images_per_shard=min(most_images.values()))
    return Job(
        options=options,
        classes=_classes(mids, names, labels, options),
        labels=NewLabels(
            name=dump.name, release=dump.release, policy=policy.record(), splits=labels
        ),
        source=source,
        plans={
            split: plan_shards(split, part, options, (most_images or {}).get(split))
            for split, part in labels.items()
        },
        rotations=None if options.rotations is None else read_rotation_lists(options.rotations),
        image_lists={s: file for s in labels if (file := dump.images_file(s)) is not None},
        most_images=most_images,
    )


def refuse_empty(labels: Mapping[str, SplitLabels], options: ShardOptions | ReshardOptions) -> None:
    """Refuse a split without any label, unless the options allow it.

    Raises:
        InputError: there is one.
    """
    for split, part in labels.items():
        if len(part.table.states_E) or split in options.allow_empty:
            continue
        row = next(iter(part.rejected_rows), None)
        reason = f"{len(part.table):,} images without any" if row is None else row.as_error()
        raise InputError(
            f"there is no label for {split} ({reason})",
            file=options.annotations,
            fix=f"mend its rows, or pass --allow-empty {split}",
        )


def _most_images(
    options: ShardOptions, labels: Mapping[str, SplitLabels], source: Source
) -> dict[str, int] | None:
    """Choose the images per shard, by split, that come to the bytes asked for."""
    if options.shard_bytes is None:
        return None
    image_ids = {split: part.table.image_ids_N for split, part in labels.items()}
    policy, output = _image_policy(options), Path(options.output)
    return images_for_bytes(options.shard_bytes, image_ids, source, policy, output)


def _image_policy(options: ShardOptions) -> ImagePolicy:
    return ImagePolicy(
        shorter_side=options.shorter_side,
        quality=options.encode_quality,
        max_pixels=options.max_pixels,
        check=not options.trust_images,
    )


def _classes(
    mids: tuple[str, ...],
    names: tuple[str, ...],
    labels: Mapping[str, SplitLabels],
    options: ShardOptions,
) -> ClassTable:
    """Count labels and cut groups on the whole training dump, not only on the images given."""
    counted = [labels["train"]] if "train" in labels else list(labels.values())
    counts = [(split.human_positives_K, split.human_negatives_K) for split in counted]
    return ClassTable.build(
        mids,
        names,
        np.sum([positives_K for positives_K, _ in counts], axis=0),
        np.sum([negatives_K for _, negatives_K in counts], axis=0),
        group_by=options.group_by,
    )


def plan_shards(
    split: str, labels: SplitLabels, options: ShardOptions, most_images: int | None = None
) -> tuple[ShardPlan, ...]:
    """Plan the shards of a split, bounded and balanced as the options ask for.

    Args:
        split: to plan.
        labels: of the split.
        options: of the job.
        most_images: in a shard, where that is not the options' number.
    """
    image_ids_N = labels.table.image_ids_N
    num_shards = choose_num_shards(
        image_ids_N,
        seed=options.seed,
        largest=most_images or options.images_per_shard,
        at_least=SHARDS_PER_RANK * options.ranks,
    )
    return tuple(plan_split(split, image_ids_N, seed=options.seed, num_shards=num_shards))
