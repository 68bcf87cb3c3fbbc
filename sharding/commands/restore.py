"""The command that made a dataset, repeated: what was lost is made again from dump and images.

Nothing else changes: a tar holds the images that it held, so that every label version stays valid,
and an image that cannot be used any more is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharding.commands.prepare import Job
from sharding.dataset.members import Members, members_in
from sharding.dataset.publish import publish
from sharding.errors import InputError
from sharding.image_ids import format_image_ids, parse_image_ids
from sharding.layout import (
    CARD_FILE,
    CLASSES_FILE,
    CLASSES_HASH,
    IMAGES_FOLDER,
    INFO_FILE,
    MANIFEST_FILE,
    QUARANTINE_FILE,
    REPAIR_WITH_IMAGES,
    SIDE_FILES,
    STAGING_FOLDER,
    UNFINISHED_FILE,
)
from sharding.maintenance.checks import Problem, broken_beside, check_derived, check_quarantine
from sharding.maintenance.repair import all_failures, known_failures, repair, still_listed
from sharding.manifest import Dataset, Manifest
from sharding.shards.dispatch import Workers
from sharding.shards.task import Failure, ShardOutcome, finished, read_record, record_is_of
from sharding.storage.files import changed, sha256_of, write_json
from sharding.storage.retry import MISSING


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a finished dataset had lost.

    Attributes:
        tars: that were written again.
        forgotten: entries of the quarantine that neither records nor this job's dump know of.
    """

    tars: int
    forgotten: int


def restore(job: Job, manifest: Manifest, workers: Workers) -> Restored | None:
    """Make again what a finished dataset has lost; tars are judged by their sizes.

    Args:
        job: that made it.
        manifest: of the dataset.
        workers: perform tasks.

    Returns:
        None where nothing was lost.

    Raises:
        InputError: an image of the dataset cannot be used any more, or what a tar held is unknown.
    """
    whole = restore_beside(job, manifest)
    dataset = Dataset.open(job.output)
    set_aside = list(check_quarantine(dataset))
    files = dataset.manifest.labels[job.labels.name].files
    if set_aside or any(changed(job.output / file.path, file.sha256) for file in files):
        members = _members(job, dataset)
        quarantine = still_listed(job.output)
        if set_aside:
            failures = known_failures(job.output, members)
            quarantine = failures.merged(quarantine.rows(), job.labels.rejected_rows)
        publish(dataset, job.labels, members, quarantine)
        dataset, whole = Dataset.open(job.output), False
    tars = list(_lost_tars(dataset))
    problems = [*tars, *check_derived(dataset)]
    if problems:
        repair(dataset, problems, job.source, workers)
    whole = _restore_records(job, Dataset.open(job.output)) and whole and not problems
    forgotten = max(0, manifest.quarantined - dataset.manifest.quarantined)
    return None if whole else Restored(tars=len(tars), forgotten=forgotten)


def write_beside(job: Job) -> dict[str, str]:
    """Write what follows from the dump alone; what the manifest's ``created_by`` says of it."""
    job.classes.write(job.output / CLASSES_FILE)
    extras = job.write_extras(job.output)
    return {CLASSES_HASH: sha256_of(job.output / CLASSES_FILE), **extras}


def restore_beside(job: Job, manifest: Manifest) -> bool:
    """Make class list, rotations and names what they were; whether they were that already."""
    if not list(broken_beside(job.output, manifest)):
        return True
    # Another version of Arrow may write the same content in other bytes.
    restored = manifest.saying(**write_beside(job))
    if restored != manifest:
        restored.write(job.output)
    for name, wrong in broken_beside(job.output, restored):
        raise InputError(
            f"{wrong}, and nothing in the dump says what it held",
            file=job.output / name,
            fix="give the dump with its image lists, or restore the file from a copy",
        )
    return False


def lacks_manifest_alone(job: Job) -> bool:
    """Whether a directory holds what this job has written, and nothing that was added since.

    Its manifest then follows from the records. That of anything more would forget it.
    """
    if not (job.output / IMAGES_FOLDER).is_dir():
        return False
    names = {plan.name for plans in job.plans.values() for plan in plans}
    own = {
        MANIFEST_FILE,
        UNFINISHED_FILE,
        QUARANTINE_FILE,
        INFO_FILE,
        CARD_FILE,
        *SIDE_FILES.values(),
    }
    for path in job.output.rglob("*"):
        folder, _, rest = path.relative_to(job.output).as_posix().partition("/")
        ours = (
            path.is_dir()
            or ".tmp." in path.name
            or folder in own
            or folder == STAGING_FOLDER
            or (folder == IMAGES_FOLDER and rest.partition(".")[0] in names)
            or (folder == "labels" and rest.partition("/")[0] in job.label_names)
        )
        if not ours:
            return False
    made = [
        task
        for task in job.tasks()
        if (record := read_record(task.record)) is not None and record.shard is not None
    ]
    # A later job's tar may have the number of a planned one of which no image could be used.
    own_tars = all(record_is_of(task) for task in made)
    return own_tars and any(finished(task) for task in made)


def _lost_tars(dataset: Dataset) -> Iterator[Problem]:
    for shard in dataset.manifest.shards:
        tar, index = dataset.directory / shard.path, dataset.directory / shard.index
        if not (tar.is_file() and tar.stat().st_size == shard.bytes and index.is_file()):
            yield Problem(path=shard.path, what="missing", fix=REPAIR_WITH_IMAGES, kind="tar")


def _restore_records(job: Job, dataset: Dataset) -> bool:
    """Make the records of planned tars tell of this job; whether they did that already."""
    shards = {Path(shard.path).stem: shard for shard in dataset.manifest.shards}
    lost = [task for task in job.tasks() if task.plan.name in shards and not record_is_of(task)]
    held = {part.shard.path: part.image_ids_N for part in members_in(dataset)} if lost else {}
    # A planned shard without a tar has left its number to a later job's.
    lost = [
        task
        for task in lost
        if np.isin(held[shards[task.plan.name].path], task.plan.image_ids_N).all()
    ]
    entries = still_listed(job.output).images().entries
    listed = {(entry.split, entry.image_id): entry for entry in entries}
    for task in lost:
        split, shard = task.plan.split, shards[task.plan.name]
        failures = []
        for image_id in format_image_ids(np.setdiff1d(task.plan.image_ids_N, held[shard.path])):
            entry = listed.get((split, image_id))
            source = task.source.name(split, image_id) if entry is None else entry.source
            reason = MISSING if entry is None else entry.reason
            failures.append(Failure(image_id=image_id, source=source, reason=reason))
        outcome = ShardOutcome(
            name=task.plan.name,
            shard=shard,
            fingerprint=task.fingerprint,
            failures=tuple(failures),
        )
        write_json(task.record, outcome.to_json())
    return not lost


def _members(job: Job, dataset: Dataset) -> list[Members]:
    """The images of every tar; where tables and indexes are lost, too, those planned for it."""
    try:
        return members_in(dataset)
    except InputError:
        planned = {plan.name: plan.image_ids_N for plans in job.plans.values() for plan in plans}
    set_aside = all_failures(job.output).merged(still_listed(job.output).images())
    members = []
    for shard in dataset.manifest.shards:
        planned_N = planned.get(Path(shard.path).stem, np.empty(0, np.uint64))
        failed_N = parse_image_ids(sorted(set_aside.image_ids(shard.split)))
        image_ids_N = planned_N[~np.isin(planned_N, failed_N)]
        if len(image_ids_N) != shard.images:
            raise InputError(
                f"which {shard.images} images it held is not known any more: "
                "its index and all label tables are lost",
                file=dataset.directory / shard.path,
                fix="restore a label table from a copy, or choose another --output",
            )
        members.append(Members(shard=shard, image_ids_N=image_ids_N))
    return members
