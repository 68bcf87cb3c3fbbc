"""The worker's side of a dataset in a bucket: a shard is written here, then put there."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from sharding import scratch
from sharding.bucket import Bucket
from sharding.shardsource import ShardSource
from sharding.sources import Source
from sharding.tasks import FOLDER, ShardOutcome, ShardTask


def deliver(
    write: Callable[[ShardTask], ShardOutcome], bucket: Bucket, task: ShardTask
) -> ShardOutcome:
    """Write a shard on this machine's disk, then put it, the record last.

    Raises:
        InputError: as ``write`` does, or the bucket refuses or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="shard-", dir=scratch.directory()) as folder:
        source = _brought(task.source, bucket, Path(folder))
        here = dataclasses.replace(task, output=folder, source=source)
        outcome = write(here)
        files = [here.record] if outcome.shard is None else [here.tar, here.index, here.record]
        for file in files:
            bucket.put(f"{FOLDER}/{file.name}", file)
        return outcome


def _brought(source: Source, bucket: Bucket, folder: Path) -> Source:
    """A tar of the dataset itself is brought to this machine before it is read."""
    if not isinstance(source, ShardSource):
        return source
    tar = folder / "from" / Path(source.tar).name
    for file in (tar, tar.with_suffix(".idx")):
        bucket.fetch(f"{FOLDER}/{file.name}", file)
    return ShardSource(tar=str(tar))
