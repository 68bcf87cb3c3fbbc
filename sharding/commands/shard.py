"""Run the shard job: write a planned `Job` as a dataset directory, over any number of kills.

The parallel map is a parameter, so that this package does not depend on Ray.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from sharding import log
from sharding.commands.confidences import add_confidences
from sharding.commands.prepare import Job
from sharding.commands.restore import restore
from sharding.commands.summary import Summary, summarise
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.dataset.duplicates import Duplicates, refuse_across, refuse_across_in
from sharding.dataset.members import Members, members_of
from sharding.dataset.publish import publish, remove_outdated
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.layout import (
    DUPLICATES,
    IMAGES_FOLDER,
    MANIFEST_FILE,
    PLAN,
    SPLITS,
    TAR_LABELS,
    UNCOUNTED,
)
from sharding.manifest import Dataset, Manifest
from sharding.shards.dispatch import Workers, finished_shards, write_shards
from sharding.shards.task import ShardOutcome, ShardTask, count_how, describe_repeated
from sharding.sources.base import ParallelMap
from sharding.storage.files import remove_temporaries


def shard_dump(job: Job, parallel: ParallelMap, workspace: Workspace | None = None) -> Summary:
    """Write the shards that are not there yet, then the tables, then the manifest.

    A finished dataset gets back what it has lost since (`sharding.commands.restore`).

    Args:
        job: whose output is a directory, the workspace's if there is one.
        parallel: spreads work over the cluster.
        workspace: of the dataset, if it is in a bucket.

    Raises:
        InputError: the output holds something else or cannot be written, no image of a split
            could be used, or something is bad and the job is strict.
    """
    started = time.monotonic()
    workspace = workspace or Workspace(job.output)
    workers = workspace.workers(parallel)
    with lock.acquire(job.output):
        manifest = _finished_manifest(job)
        if manifest is not None:
            summary = _repeat(job, manifest, workers, workspace.location, started)
            return _with_confidences(job, summary)
        lock.begin(job.output, job.identity)
        workspace.push()  # a shard must find there what says which command it is of
        tasks = list(job.tasks())
        earlier = finished_shards(tasks, retry_failed=job.options.retry_failed)
        outcomes = [*earlier, *write_shards(tasks, workers, earlier=earlier)]
        if lost := _lost_splits(job, outcomes):
            raise _nothing_usable(job, lost, tasks, outcomes)
        if repeated := describe_repeated(outcomes):
            log.info(f"{repeated}; is it the placeholder of a site?", "WARNING")
        plans = (plan for of_split in job.plans.values() for plan in of_split)
        members = members_of(outcomes, plans)
        duplicates = Duplicates.of(outcomes, members)
        if job.options.refuse_cross_split_duplicates:
            refuse_across(duplicates)
        if duplicates:
            log.info(str(duplicates), "WARNING" if duplicates.across else "INFO")
        remove_temporaries(job.output)  # of workers that were killed
        _publish(job, outcomes, members, duplicates)
        lock.end(job.output)
        summary = summarise(
            Dataset.open(job.output),
            location=workspace.location,
            seconds=time.monotonic() - started,
            continued=len(earlier),
            how=count_how(outcomes),
        )
        return _with_confidences(job, summary)


def _with_confidences(job: Job, summary: Summary) -> Summary:
    """Write the confidences that the options name, if any, over the finished dataset."""
    if job.options.confidences is None:
        return summary
    added = add_confidences(summary.dataset, job.options, summary.location)
    return dataclasses.replace(summary, dataset=Dataset.open(job.output), confidences=str(added))


def _finished_manifest(job: Job) -> Manifest | None:
    """Read the manifest that an earlier run of this job wrote; None where there is none.

    Raises:
        InputError: the output is another dataset, or its manifest is damaged.
    """
    if not (job.output / MANIFEST_FILE).is_file():
        return None
    manifest = Manifest.read(job.output)
    if not job.made(manifest):
        raise InputError(
            f"this is a finished dataset of other labels or options ({_described(manifest, job)})",
            file=job.output / MANIFEST_FILE,
            fix=f"choose another --output{job.relabel_fix}",
        )
    refuse_other_name(job, manifest)
    return manifest


def refuse_other_name(job: Job, manifest: Manifest) -> None:
    """Refuse to call a finished dataset by another name than its own.

    Raises:
        InputError: the options name it so.
    """
    if job.options.dataset_name not in (None, manifest.name):
        raise InputError(
            f"this finished dataset is named {manifest.name!r}, not {job.options.dataset_name!r}",
            file=job.output / MANIFEST_FILE,
            fix="leave out --dataset-name, or choose another --output",
        )


def _described(manifest: Manifest, job: Job) -> str:
    old = {
        "seed": manifest.seed,
        "images_per_shard": manifest.images_per_shard,
        "treatment": dict(manifest.treatment),
        "classes_sha256": manifest.classes_sha256,
    }
    changes = lock.differences(old, {key: job.identity[key] for key in old})
    return changes or "the annotations or their policy differ"


def _repeat(
    job: Job, manifest: Manifest, workers: Workers, location: str, started: float
) -> Summary:
    """Repeat the command of a finished dataset: restore what was lost, retry images if asked to."""
    refuse = job.options.refuse_cross_split_duplicates
    if refuse and manifest.created_by.get(DUPLICATES) != UNCOUNTED:
        refuse_across_in(Dataset.open(job.output), workers)
    remove_temporaries(job.output)
    if lock.is_begun(job.output):  # killed after it wrote the manifest
        remove_outdated(job.output, manifest)
        lock.end(job.output)
    restored = restore(job.without(manifest.removed_ids), manifest, workers)
    if refuse and Manifest.read(job.output).created_by.get(DUPLICATES) == UNCOUNTED:
        refuse_across_in(Dataset.open(job.output), workers)  # with images that were added just now
    return summarise(
        Dataset.open(job.output),
        location=location,
        seconds=None if restored is None else time.monotonic() - started,
        continued=len(manifest.shards) - restored.tars if restored and restored.tars else 0,
        forgotten=0 if restored is None else restored.forgotten,
    )


def _publish(
    job: Job,
    outcomes: Sequence[ShardOutcome],
    members: Sequence[Members],
    duplicates: Duplicates | None,
) -> None:
    """Write tables and manifest over the shards that have images."""
    created_by = {PLAN: job.digest, TAR_LABELS: job.labels.name, **job.write_side_files()}
    if duplicates is None:
        created_by[DUPLICATES] = UNCOUNTED
    elif duplicates:
        created_by[DUPLICATES] = duplicates.record()
    manifest = Manifest(
        name=job.options.dataset_name or job.output.resolve().name,
        classes_sha256=job.classes.sha256,
        num_classes=len(job.classes),
        seed=job.options.seed,
        images_per_shard=job.options.images_per_shard,
        treatment=job.treatment.record(),
        default_labels=job.labels.name,
        labels={},
        shards=(),
        created_by=created_by,
    )
    publish(
        Dataset(directory=job.output, manifest=manifest, classes=job.classes),
        job.labels,
        members,
        Quarantine.of_outcomes(outcomes).merged(job.labels.rejected_rows),
    )


def _lost_splits(job: Job, outcomes: Sequence[ShardOutcome]) -> tuple[str, ...]:
    """List the splits without any usable image, if they may not be so."""
    held = {outcome.split for outcome in outcomes if outcome.shard}
    lost = tuple(split for split in SPLITS if split in {o.split for o in outcomes} - held)
    return tuple(s for s in lost if s not in job.options.allow_empty) if held else lost


def _nothing_usable(
    job: Job, lost: Sequence[str], tasks: Sequence[ShardTask], outcomes: Sequence[ShardOutcome]
) -> InputError:
    """Take back the splits: their images are most likely elsewhere; the next run looks again."""
    tasks = [task for task in tasks if task.plan.split in lost]
    for task in tasks:
        task.record.unlink(missing_ok=True)
    first = min((o for o in outcomes if o.split in lost), key=lambda outcome: outcome.name)
    remove_temporaries(job.output)
    which, fix = f"labelled images of {' and '.join(lost)}", job.images_fix
    if any(outcome.shard for outcome in outcomes):
        fix += f", or pass --allow-empty {' '.join(lost)}; what is finished is kept"
    else:
        which = "labelled images"
        (job.output / IMAGES_FOLDER).rmdir()
        lock.end(job.output)
    return InputError(
        f"none of the {sum(len(task.plan) for task in tasks)} {which} could be used "
        f"(the first: {first.failures[0].reason})",
        file=job.options.images,
        fix=fix,
    )
