"""The shard job: a planned `Job` becomes a dataset directory, over however many kills it takes.

The parallel map is handed in, so that this package knows nothing of Ray.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sharding import unfinished
from sharding.atomic import sweep
from sharding.card import write_card
from sharding.carried import TAR_LABELS
from sharding.commit import (
    count_how,
    members_of,
    quarantine_of,
    write_info,
)
from sharding.dispatch import ParallelMap, write_shards
from sharding.errors import InputError
from sharding.manifest import FILE, Dataset, Manifest
from sharding.prepare import Job
from sharding.quarantine import FILE as QUARANTINE_FILE
from sharding.quarantine import HASH as QUARANTINE_HASH
from sharding.reshard import add_labels
from sharding.restore import restore_beside, write_beside
from sharding.summary import Summary, summarise
from sharding.tasks import FOLDER, ShardOutcome, ShardTask, finished
from sharding.versions import label_version, remove_settled


def convert(job: Job, parallel: ParallelMap) -> Summary:
    """Write what is not there yet, then the tables, then the manifest.

    Raises:
        InputError: the output holds something else or cannot be written, no image at all could
            be used, or something is bad and the job is strict.
    """
    started = time.monotonic()
    with unfinished.holding(job.output):
        existing = _existing(job)
        if existing is None:
            unfinished.begin(job.output, job.identity)
        else:
            existing = restore_beside(job, existing)
        if existing is not None and job.options.retry_failed:
            sweep(job.output)
            add_labels(Dataset.open(job.output), job.labels, job.source, parallel)
            seconds = time.monotonic() - started
            return summarise(job.output, Manifest.read(job.output), seconds=seconds)
        tasks = list(job.tasks())
        earlier = [
            outcome
            for task in tasks
            if (outcome := finished(task)) is not None
            and not (job.options.retry_failed and outcome.failures)
        ]
        names = {outcome.name for outcome in earlier}
        todo = [task for task in tasks if task.plan.name not in names]
        if existing is not None and (not todo or _revised(existing, names, todo)):
            unfinished.end(job.output)
            return summarise(job.output, existing, seconds=None)
        written = write_shards(todo, parallel, planned=tasks)
        outcomes = sorted([*earlier, *written], key=lambda done: done.name)
        if not any(outcome.shard for outcome in outcomes):
            raise _nothing_usable(job, tasks, outcomes)
        sweep(job.output)  # of workers that were killed
        manifest = _commit(job, outcomes, existing)
        return summarise(
            job.output,
            manifest,
            seconds=time.monotonic() - started,
            continued=len(earlier),
            how=count_how(outcomes),
        )


def _existing(job: Job) -> Manifest | None:
    """The manifest of an earlier run of this job, None where there is none.

    Raises:
        InputError: the output is another dataset.
    """
    if not (job.output / FILE).is_file():
        return None
    manifest = Manifest.read(job.output)
    if manifest.created_by.get("plan") != job.digest:
        raise InputError(
            f"this is a finished dataset of other labels or options ({_described(manifest, job)})",
            file=job.output / FILE,
            fix="choose another --output, or run jobs/reshard_openimages.py for new annotations",
        )
    return manifest


def _revised(manifest: Manifest, finished_names: set[str], todo: Sequence[ShardTask]) -> bool:
    """Whether re-sharding has added or replaced tars since: repairing is then not this job's."""
    planned = finished_names | {task.plan.name for task in todo}
    return any(Path(shard.path).stem not in planned for shard in manifest.shards)


def _described(manifest: Manifest, job: Job) -> str:
    old = {
        "seed": manifest.seed,
        "images_per_shard": manifest.images_per_shard,
        "treatment": dict(manifest.treatment),
        "classes_sha256": manifest.classes_sha256,
    }
    found = unfinished.differences(old, {key: job.identity[key] for key in old})
    return found or "the annotations or their policy differ"


def _commit(job: Job, outcomes: Sequence[ShardOutcome], existing: Manifest | None) -> Manifest:
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
    quarantine = quarantine_of(outcomes).merged(job.labels.bad_rows)
    digest = quarantine.write(directory / QUARANTINE_FILE)
    write_info(directory, name, shards)
    manifest = Manifest(
        name=name,
        classes_sha256=job.classes.sha256,
        num_classes=len(job.classes),
        seed=job.options.seed,
        images_per_shard=job.options.images_per_shard,
        treatment=job.treatment.record(),
        default_labels=existing.default_labels if existing else job.labels.name,
        labels={**(existing.labels if existing else {}), job.labels.name: version},
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
    unfinished.end(directory)
    return manifest


def _nothing_usable(
    job: Job, tasks: Sequence[ShardTask], outcomes: Sequence[ShardOutcome]
) -> InputError:
    """Forget the run: most likely the images are elsewhere, and the next run must look again."""
    for task in tasks:
        task.record.unlink(missing_ok=True)
    sweep(job.output)
    (job.output / FOLDER).rmdir()
    unfinished.end(job.output)
    return InputError(
        f"none of the {sum(len(task.plan) for task in tasks)} labelled images could be used "
        f"(the first: {outcomes[0].failures[0].reason})",
        file=job.options.images,
        fix=job.images_fix,
    )
