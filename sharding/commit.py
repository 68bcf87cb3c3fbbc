"""The end of every job that writes images: tables over what was committed, manifest last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sharding.atomic import write_json
from sharding.ids import parse_image_ids
from sharding.labels import POSITIVE, LabelTable
from sharding.manifest import LabelFile, ShardRecord
from sharding.quarantine import Entry, Quarantine
from sharding.tasks import ShardOutcome

INFO_FILE = "_info.json"


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


def write_labels(
    directory: Path, name: str, split: str, table: LabelTable, members: Iterable[Members]
) -> LabelFile:
    """Write the label table of a split: the rows of the images at hand, ordered as the shards.

    An image that the table does not know becomes a row without labels.
    """
    ordered = sorted(members, key=lambda part: part.shard.path)
    image_ids_N = np.concatenate([np.empty(0, np.uint64), *(part.image_ids_N for part in ordered)])
    shards = [part.shard.path for part in ordered for _ in range(len(part.image_ids_N))]
    # An image without a row of its own comes back with id 0.
    chosen = replace(table.select(table.rows_of(image_ids_N), shards), image_ids_N=image_ids_N)
    path = f"labels/{name}/{split}.parquet"
    digest = chosen.write(directory / path)
    positives = int(np.count_nonzero(chosen.states_E == POSITIVE))
    return LabelFile(
        path=path,
        images=len(chosen),
        positives=positives,
        negatives=len(chosen.states_E) - positives,
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


def write_info(directory: Path, name: str, shards: Sequence[ShardRecord]) -> None:
    """Write `_info.json`, from which timm learns splits, files and lengths."""
    splits: dict[str, dict[str, Any]] = {}
    for shard in shards:
        split = splits.setdefault(
            shard.split,
            {"name": shard.split, "num_samples": 0, "filenames": [], "shard_lengths": []},
        )
        split["num_samples"] += shard.images
        split["filenames"].append(shard.path)
        split["shard_lengths"].append(shard.images)
    write_json(directory / INFO_FILE, {"name": name, "splits": splits})


def count_how(outcomes: Iterable[ShardOutcome]) -> Mapping[str, int]:
    """Images by what was done to them, over all shards."""
    total: dict[str, int] = {}
    for outcome in outcomes:
        for how, count in outcome.how.items():
            total[how] = total.get(how, 0) + count
    return dict(sorted(total.items()))
