"""Run an import: the shard job on a foreign collection, then its single-positive labels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from sharding.commands.shard import refuse_other_name, shard_dump
from sharding.commands.summary import Resharded, Summary, summarise
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.dataset.label_versions import tar_labels
from sharding.importers.prepare import ImportJob
from sharding.importers.relabel import is_current, relabel
from sharding.layout import MANIFEST_FILE, SPLITS
from sharding.maintenance.extend import add_labels
from sharding.manifest import Dataset, Manifest
from sharding.sources.base import ParallelMap
from sharding.storage.files import remove_temporaries

PUBLISHED_COUNTS: Mapping[str, tuple[int, int, int]] = {
    "voc2012": (4_574, 1_143, 5_823),
    "coco2014": (65_665, 16_416, 40_137),
    "nuswide": (120_000, 30_000, 60_260),
    "cub2011": (4_795, 1_199, 5_794),
}
"""Images in `SPLITS` that the papers count, by release; NUS-WIDE's are of the papers' own lists."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A finished import: the summary of the dataset, compared with the papers' counts."""

    summary: Summary

    def __str__(self) -> str:
        remark = comparison(self.summary.dataset.manifest)
        return str(self.summary) if remark is None else f"{self.summary}\n  {'papers':<12} {remark}"


def import_collection(
    job: ImportJob, parallel: ParallelMap, workspace: Workspace | None = None
) -> Imported | Resharded:
    """Write the shards and label versions that are missing; repeating it finishes a killed import.

    Labels of another name than those in the tars of a finished import become one more version.

    Raises:
        InputError: as `sharding.commands.shard.shard_dump` or `relabel`.
    """
    started = time.monotonic()
    workspace = workspace or Workspace(job.output)
    if (job.output / MANIFEST_FILE).is_file():
        manifest = Manifest.read(job.output)
        is_new = job.is_named and job.labels.name not in tar_labels(manifest).values()
        if is_new and not job.made(manifest):
            refuse_other_name(job, manifest)
            return relabel(job, workspace, started)
    summary = shard_dump(job, parallel, workspace)
    new = job.single_positive
    if new is None:
        return Imported(summary=summary)
    with lock.acquire(job.output):
        dataset = Dataset.open(job.output)
        new = new.without(dataset.manifest.removed_ids)
        done = dataset.manifest.default_labels == new.name and is_current(dataset, new)
        if not done:
            remove_temporaries(job.output)
            add_labels(dataset, new, None, workspace.workers(parallel), make_default=True)
    return Imported(
        summary=summarise(
            Dataset.open(job.output),
            location=workspace.location,
            seconds=summary.seconds if done else time.monotonic() - started,
            continued=summary.continued,
            how=summary.how,
            forgotten=summary.forgotten,
        )
    )


def comparison(manifest: Manifest) -> str | None:
    """Compare with the papers' counts; None where there are none, or for other draws."""
    version = next(iter(manifest.labels.values()))
    expected = PUBLISHED_COUNTS.get(version.release)
    drawn = version.policy.get("validation", {})
    if expected is None or (drawn.get("share"), drawn.get("seed")) != (0.2, 1200):
        return None
    papers = f"the papers count {_slashed(expected)}"
    files = [version.splits.get(split) for split in SPLITS]
    counts = tuple(0 if file is None else file.images for file in files)
    if counts == expected:
        return f"{papers}, as here"
    if version.policy.get("lists") == "official":
        return f"{papers} in lists of their own, not the official ones read here"
    return f"{papers}, here it is {_slashed(counts)}"


def _slashed(counts: tuple[int, ...]) -> str:
    return " / ".join(f"{count:,}" for count in counts)
