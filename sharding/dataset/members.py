"""List the images of committed tars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharding.image_ids import Ids, parse_image_ids
from sharding.manifest import Dataset
from sharding.manifest_parts import ShardRecord
from sharding.shards.plan import ShardPlan
from sharding.shards.task import ShardOutcome
from sharding.storage.files import changed
from sharding.storage.tar_index import read_index


@dataclass(frozen=True, kw_only=True)
class Members:
    """Hold the images of one committed tar, ``image_ids_N`` (uint64) in tar order."""

    shard: ShardRecord
    image_ids_N: npt.NDArray[np.uint64]


def members_of(outcomes: Iterable[ShardOutcome], plans: Iterable[ShardPlan]) -> list[Members]:
    """List the images of written tars: those planned without those that failed."""
    planned = {plan.name: plan.image_ids_N for plan in plans}
    members = []
    for outcome in outcomes:
        if outcome.shard is not None:
            failed = parse_image_ids([failure.image_id for failure in outcome.failures])
            planned_N = planned[outcome.name]
            held_N = planned_N[~np.isin(planned_N, failed)]
            members.append(Members(shard=outcome.shard, image_ids_N=held_N))
    return members


def members_in(dataset: Dataset) -> list[Members]:
    """List the images of every tar of a dataset.

    They are read from a label table of each split; from the indexes where a job was killed after
    it changed the tables and before it wrote the manifest.

    Raises:
        InputError: an index is missing or damaged.
    """
    members = []
    for split in dict.fromkeys(shard.split for shard in dataset.manifest.shards):
        records = dataset.shards(split)
        parts = _listed(dataset, split, records)
        if parts is None:
            indexes = [read_index(dataset.directory / record.index) for record in records]
            parts = [parse_image_ids(list(index)) for index in indexes]
        members += [
            Members(shard=record, image_ids_N=ids_N)
            for record, ids_N in zip(records, parts, strict=True)
        ]
    return members


def _listed(
    dataset: Dataset, split: str, records: Sequence[ShardRecord]
) -> list[npt.NDArray[np.uint64]] | None:
    """Read the ids of each tar from an intact label table; None where there is no such table."""
    ends = np.cumsum([record.images for record in records])
    default, versions = dataset.manifest.default_labels, dataset.manifest.labels
    for name in sorted(versions, key=lambda name: name != default):
        file = versions[name].splits.get(split)
        if file is None or changed(dataset.directory / file.path, file.sha256) is not None:
            continue
        table = dataset.labels(split, name)
        names = [table.shards[row - 1] for row in ends.tolist() if row <= len(table)]
        if ends[-1] == len(table) and names == [record.path for record in records]:
            return np.split(table.image_ids_N, ends[:-1])
    return None


def ids_of(split: str, members: Iterable[Members]) -> Ids:
    """Join the image ids of a split, in tar order."""
    parts = [part.image_ids_N for part in members if part.shard.split == split]
    return np.concatenate([np.empty(0, np.uint64), *parts])
