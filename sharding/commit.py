"""The end of every job that writes images: tables over what was committed, manifest last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sharding.annotations import SplitLabels
from sharding.atomic import write_json
from sharding.files import changed
from sharding.ids import parse_image_ids
from sharding.labels import POSITIVE, LabelTable
from sharding.manifest import Dataset, LabelFile, ShardRecord
from sharding.quarantine import Entry, Quarantine
from sharding.shardsource import read_index
from sharding.tasks import ShardOutcome

INFO_FILE = "_info.json"

GROUPS_OF = "groups_of"
"""Key in ``created_by``: the splits that class groups were cut by, if that is not train."""


@dataclass(frozen=True, kw_only=True)
class NewLabels:
    """The labels of a dump, over all images it names, about to become a label version.

    Attributes:
        name: of the version.
        release: of the dump.
        policy: how rows became labels, as the manifest records it.
        splits: labels by split.
    """

    name: str
    release: str
    policy: Mapping[str, Any]
    splits: Mapping[str, SplitLabels]

    @property
    def bad_rows(self) -> Quarantine:
        """The annotation rows that were set aside."""
        parts = [Quarantine.of_bad_rows(s, found.bad_rows) for s, found in self.splits.items()]
        return Quarantine().merged(*parts)


@dataclass(frozen=True, kw_only=True)
class Members:
    """The images of one committed tar, ``image_ids_N`` (uint64) in tar order."""

    shard: ShardRecord
    image_ids_N: npt.NDArray[np.uint64]


def members_of(outcome: ShardOutcome, planned_N: npt.NDArray[np.uint64]) -> Members | None:
    """What a shard holds: the images planned without those that failed; None without a tar."""
    if outcome.shard is None:
        return None
    failed = parse_image_ids([failure.image_id for failure in outcome.failures])
    return Members(shard=outcome.shard, image_ids_N=planned_N[~np.isin(planned_N, failed)])


def members_in(dataset: Dataset) -> list[Members]:
    """The images of every tar of a dataset.

    Read from the label tables, which list them; from the indexes where a job was killed after it
    changed a table and before it wrote the manifest.

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
    """The ids of each tar as a whole label table lists them; None where there is no such table."""
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


def arrange(table: LabelTable, members: Iterable[Members]) -> LabelTable:
    """The rows of the images at hand, ordered as the shards.

    An image that the table does not know becomes a row without labels.
    """
    ordered = sorted(members, key=lambda part: part.shard.path)
    image_ids_N = np.concatenate([np.empty(0, np.uint64), *(part.image_ids_N for part in ordered)])
    shards = [part.shard.path for part in ordered for _ in range(len(part.image_ids_N))]
    # An image without a row of its own comes back with id 0.
    return replace(table.select(table.rows_of(image_ids_N), shards), image_ids_N=image_ids_N)


def write_labels(directory: Path, name: str, split: str, arranged: LabelTable) -> LabelFile:
    """Write a label table of a label version, under the name of its split."""
    path = f"labels/{name}/{split}.parquet"
    digest = arranged.write(directory / path)
    positives = int(np.count_nonzero(arranged.states_E == POSITIVE))
    return LabelFile(
        path=path,
        images=len(arranged),
        positives=positives,
        negatives=len(arranged.states_E) - positives,
        sha256=digest,
    )


def quarantine_of(outcomes: Iterable[ShardOutcome]) -> Quarantine:
    """The images that could not be used."""
    return Quarantine(
        entries=tuple(
            Entry(
                image_id=failure.image_id,
                split=outcome.name.rpartition("-")[0],
                source=failure.source,
                reason=failure.reason,
            )
            for outcome in outcomes
            for failure in outcome.failures
        )
    )


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


def count_how(outcomes: Iterable[ShardOutcome]) -> Mapping[str, int]:
    """Images by what was done to them, over all shards."""
    total: dict[str, int] = {}
    for outcome in outcomes:
        for how, count in outcome.how.items():
            total[how] = total.get(how, 0) + count
    return dict(sorted(total.items()))
