"""The shard job: a planned `Job` becomes a dataset directory, over however many kills it takes.

The parallel map is handed in, so that this package knows nothing of Ray.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from sharding.commands.prepare import Job
from sharding.commands.restore import (
    Restored,
    lacks_manifest_alone,
    restore,
    restore_beside,
    write_beside,
)
from sharding.commands.summary import Summary, summarise
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.dataset.card import write_card
from sharding.dataset.label_versions import label_version, remove_settled
from sharding.dataset.members import members_of
from sharding.dataset.publish import write_info
from sharding.dataset.quarantine import quarantine_of
from sharding.errors import InputError
from sharding.layout import (
    IMAGES_FOLDER,
    MANIFEST_FILE,
    QUARANTINE_FILE,
    QUARANTINE_HASH,
    TAR_LABELS,
)
from sharding.maintenance.extend import add_labels
from sharding.manifest import DamagedManifest, Dataset, Manifest
from sharding.shards.dispatch import write_shards
from sharding.shards.task import ShardOutcome, ShardTask, count_how, finished
from sharding.sources.base import ParallelMap
from sharding.storage.files import remove_temporaries


def shard_dump(job: Job, parallel: ParallelMap, workspace: Workspace | None = None) -> Summary:
    """Write what is not there yet, then the tables, then the manifest.

    Args:
        job: whose output is a directory, the workspace's if there is one.
        parallel: spreads work over the cluster.
        workspace: of the dataset, if it is in a bucket.

    Raises:
        InputError: the output holds something else or cannot be written, no image at all could
            be used, or something is bad and the job is strict.
    """
    started = time.monotonic()
    workspace = workspace or Workspace(job.output)
    with lock.acquire(job.output):
        existing = _existing(job)
        if existing is not None:
            return _again(job, existing, parallel, workspace, started)
        lock.begin(job.output, job.identity, begun=lacks_manifest_alone(job))
        workspace.push()  # a shard must find there what says which command it is of
        tasks = list(job.tasks())
        earlier = [outcome for task in tasks if (outcome := finished(task)) is not None]
        if job.options.retry_failed:
            earlier = [outcome for outcome in earlier if not outcome.failures]
        names = {outcome.name for outcome in earlier}
        todo = [task for task in tasks if task.plan.name not in names]
        written = write_shards(todo, workspace.workers(parallel), planned=tasks)
        outcomes = sorted([*earlier, *written], key=lambda done: done.name)
        if not any(outcome.shard for outcome in outcomes):
            raise _nothing_usable(job, tasks, outcomes)
        remove_temporaries(job.output)  # of workers that were killed
        manifest = _commit(job, outcomes)
        return summarise(
            job.output,
            manifest,
            location=workspace.location,
            seconds=time.monotonic() - started,
            continued=len(earlier),
            how=count_how(outcomes),
        )


def _again(
    job: Job, manifest: Manifest, parallel: ParallelMap, workspace: Workspace, started: float
) -> Summary:
    """A dataset that was finished before: look again for images, or make again what was lost."""
    directory, workers = job.output, workspace.workers(parallel)
    remove_temporaries(directory)
    restored: Restored | None = Restored(tars=0, forgotten=0)
    if job.options.retry_failed:
        restore_beside(job, manifest)
        add_labels(Dataset.open(directory), job.labels, job.source, workers)
    else:
        restored = restore(job, manifest, workers)
    lock.end(directory)
    return summarise(
        directory,
        Manifest.read(directory),
        location=workspace.location,
        seconds=None if restored is None else time.monotonic() - started,
        continued=len(manifest.shards) - restored.tars if restored and restored.tars else 0,
        forgotten=0 if restored is None else restored.forgotten,
    )


def _existing(job: Job) -> Manifest | None:
    """The manifest of an earlier run of this job, None where there is none.

    Raises:
        InputError: the output is another dataset.
    """
    if not (job.output / MANIFEST_FILE).is_file():
        return None
    try:
        manifest = Manifest.read(job.output)
    except DamagedManifest:
        if lacks_manifest_alone(job):
            return None
        raise
    if manifest.created_by.get("plan") != job.digest:
        raise InputError(
            f"this is a finished dataset of other labels or options ({_described(manifest, job)})",
            file=job.output / MANIFEST_FILE,
            fix="choose another --output, or run jobs/reshard_openimages.py for new annotations",
        )
    return manifest


def _described(manifest: Manifest, job: Job) -> str:
    old = {
        "seed": manifest.seed,
        "images_per_shard": manifest.images_per_shard,
        "treatment": dict(manifest.treatment),
        "classes_sha256": manifest.classes_sha256,
    }
    found = lock.differences(old, {key: job.identity[key] for key in old})
    return found or "the annotations or their policy differ"


def _commit(job: Job, outcomes: Sequence[ShardOutcome]) -> Manifest:
    planned = {plan.name: plan for plans in job.plans.values() for plan in plans}
    members = [
        part
        for outcome in outcomes
        if (part := members_of(outcome, planned[outcome.name].image_ids_N)) is not None
    ]
    shards = tuple(part.shard for part in members)
    directory, name = job.output, job.options.dataset_name or job.output.resolve().name
    version = label_version(directory, job.labels, members)
    beside = write_beside(job)
    quarantine = quarantine_of(outcomes).merged(job.labels.rejected_rows)
    digest = quarantine.write(directory / QUARANTINE_FILE)
    write_info(directory, name, shards)
    manifest = Manifest(
        name=name,
        classes_sha256=job.classes.sha256,
        num_classes=len(job.classes),
        seed=job.options.seed,
        images_per_shard=job.options.images_per_shard,
        treatment=job.treatment.record(),
        default_labels=job.labels.name,
        labels={job.labels.name: version},
        shards=shards,
        quarantined=len(quarantine),
        created_by={
            "plan": job.digest,
            TAR_LABELS: job.labels.name,
            QUARANTINE_HASH: digest,
            **beside,
        },
    )
    write_card(directory, manifest, job.classes)
    manifest.write(directory)
    remove_settled(directory, manifest)
    lock.end(directory)
    return manifest


def _nothing_usable(
    job: Job, tasks: Sequence[ShardTask], outcomes: Sequence[ShardOutcome]
) -> InputError:
    """Forget the run: most likely the images are elsewhere, and the next run must look again."""
    for task in tasks:
        task.record.unlink(missing_ok=True)
    remove_temporaries(job.output)
    (job.output / IMAGES_FOLDER).rmdir()
    lock.end(job.output)
    return InputError(
        f"none of the {sum(len(task.plan) for task in tasks)} labelled images could be used "
        f"(the first: {outcomes[0].failures[0].reason})",
        file=job.options.images,
        fix=job.images_fix,
    )
