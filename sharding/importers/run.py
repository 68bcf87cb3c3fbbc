"""The import job: the shard job on a foreign collection, then its single-positive labels.

How many images the papers train, validate and test on: a check that a collection is whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sharding.commands.shard import shard_dump
from sharding.commands.summary import Summary, summarise
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.dataset.label_versions import NewLabels
from sharding.dataset.members import arrange, members_in
from sharding.errors import InputError
from sharding.importers.prepare import ImportJob
from sharding.labels import LabelTable
from sharding.layout import SPLITS
from sharding.maintenance.extend import add_labels
from sharding.manifest import Dataset, Manifest
from sharding.sources.base import ParallelMap
from sharding.storage.files import remove_temporaries, sha256_of


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A finished import: the dataset in numbers, and the papers' numbers beside them."""

    summary: Summary

    def __str__(self) -> str:
        remark = comparison(self.summary.manifest)
        return str(self.summary) if remark is None else f"{self.summary}\n  {'papers':<12} {remark}"


def import_collection(
    job: ImportJob, parallel: ParallelMap, workspace: Workspace | None = None
) -> Imported:
    """Write what is not there yet; a killed import is finished by repeating it.

    Raises:
        InputError: as `sharding.commands.shard.shard_dump`.
    """
    started = time.monotonic()
    workspace = workspace or Workspace(job.output)
    summary = shard_dump(job, parallel, workspace)
    new = job.single_positive
    if new is None:
        return Imported(summary=summary)
    with lock.acquire(job.output):
        dataset = Dataset.open(job.output)
        current = _is_current(dataset, new)
        if not current:
            remove_temporaries(job.output)
            add_labels(dataset, new, None, workspace.workers(parallel), make_default=True)
    return Imported(
        summary=summarise(
            job.output,
            Dataset.open(job.output).manifest,
            location=workspace.location,
            seconds=summary.seconds if current else time.monotonic() - started,
            continued=summary.continued,
            how=summary.how,
            forgotten=summary.forgotten,
        )
    )


def _is_current(dataset: Dataset, new: NewLabels) -> bool:
    """Whether the dataset has these labels, whole, for all images that it holds, as default."""
    version = dataset.manifest.labels.get(new.name)
    if version is None or dataset.manifest.default_labels != new.name:
        return False
    members = members_in(dataset)
    for split, labels in new.splits.items():
        file = version.splits[split]
        for table in filter(None, (file, file.without_pixels)):
            path = dataset.directory / table.path
            if not path.is_file() or sha256_of(path) != table.sha256:
                return False
        at_hand = [part for part in members if part.shard.split == split]
        try:
            if not _equal(dataset.labels(split, new.name), arrange(labels.table, at_hand)):
                return False
        except InputError:
            return False
    return True


def _equal(first: LabelTable, second: LabelTable) -> bool:
    return (
        np.array_equal(first.image_ids_N, second.image_ids_N)
        and np.array_equal(first.offsets_N1, second.offsets_N1)
        and np.array_equal(first.classes_E, second.classes_E)
        and np.array_equal(first.states_E, second.states_E)
    )


COUNTS: Mapping[str, tuple[int, int, int]] = {
    "voc2012": (4_574, 1_143, 5_823),
    "coco2014": (65_665, 16_416, 40_137),
    "nuswide": (120_000, 30_000, 60_260),
    "cub2011": (4_795, 1_199, 5_794),
}
"""Images in `SPLITS`, by release. NUS-WIDE's are those of the papers' own lists."""


def comparison(manifest: Manifest) -> str | None:
    """One line on the papers' counts; None where there are none, or another split was asked for."""
    version = next(iter(manifest.labels.values()))
    expected = COUNTS.get(version.release)
    drawn = version.policy.get("validation", {})
    if expected is None or (drawn.get("share"), drawn.get("seed")) != (0.2, 1200):
        return None
    told = "the papers count " + " / ".join(f"{count:,}" for count in expected)
    found = tuple(
        version.splits[split].images if split in version.splits else 0 for split in SPLITS
    )
    if found == expected:
        return f"{told}, as here"
    if version.policy.get("lists") == "official":
        return f"{told} in lists of their own, not the official ones read here"
    return f"{told}, here it is " + " / ".join(f"{count:,}" for count in found)
