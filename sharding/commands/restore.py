"""Repeat the command that made a dataset: make what was lost again from dump and images.

A tar gets the images that it held, so that every label version stays valid, and an image that
cannot be used any more is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sharding.commands.prepare import Job
from sharding.dataset.members import Members, members_in
from sharding.dataset.publish import write_manifest
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.layout import QUARANTINE_FILE
from sharding.maintenance.checks import check_derived, check_side_files
from sharding.maintenance.extend import add_labels
from sharding.maintenance.problems import Kind, Problem
from sharding.maintenance.repair import repair
from sharding.manifest import Dataset, Manifest
from sharding.shards.dispatch import Workers
from sharding.storage.files import changed


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Count what was done to a finished dataset.

    Attributes:
        tars: that were written again.
        forgotten: entries of a lost quarantine that neither images nor this job's dump bring back.
    """

    tars: int
    forgotten: int


def restore(job: Job, manifest: Manifest, workers: Workers) -> Restored | None:
    """Make again what a finished dataset has lost; tars are judged by their sizes.

    Images that were set aside are looked for again where the options say so, and where the table
    of them is lost.

    Args:
        job: that made the dataset.
        manifest: of the dataset.
        workers: perform shard tasks.

    Returns:
        None where nothing was lost and nothing had to be looked for.

    Raises:
        InputError: an image of the dataset cannot be used any more, or what a tar held is unknown.
    """
    lost = {problem.kind for problem in check_side_files(job.output, manifest)}
    if Kind.SIDE_FILE in lost:
        manifest = _restore_side_files(job, manifest)
    dataset = Dataset.open(job.output)
    look_again = job.options.retry_failed or Kind.QUARANTINE in lost
    tables_lost = _tables_lost(job, dataset)
    added = 0
    if look_again or tables_lost:
        listed = _quarantine(dataset)
        members = _members(job, dataset, listed)
        known = listed.rows() if Kind.QUARANTINE in lost else listed
        source = job.source if look_again else None
        added = add_labels(dataset, job.labels, source, workers, members=members, quarantine=known)
        dataset = Dataset.open(job.output)
    # With --retry-failed the images of the dataset may be elsewhere.
    tars = [] if job.options.retry_failed else list(_lost_tars(dataset))
    problems = [*tars, *check_derived(dataset)]
    if problems:
        repair(dataset, problems, job.source, workers)
    if not (lost or look_again or tables_lost or problems):
        return None
    forgotten = manifest.quarantined - dataset.manifest.quarantined - added
    return Restored(tars=len(tars), forgotten=max(0, forgotten) if Kind.QUARANTINE in lost else 0)


def _quarantine(dataset: Dataset) -> Quarantine:
    """Read what was set aside; nothing where the table cannot be read."""
    try:
        return Quarantine.read(dataset.directory / QUARANTINE_FILE)
    except InputError:
        return Quarantine()


def _restore_side_files(job: Job, manifest: Manifest) -> Manifest:
    """Write class list, rotations, names and authors again."""
    # Another version of Arrow may write the same content in other bytes.
    restored = manifest.with_provenance(**job.write_side_files())
    for problem in check_side_files(job.output, restored):
        if problem.kind is Kind.SIDE_FILE:
            raise InputError(
                f"{problem.what}, and nothing in the dump says what it held",
                file=job.output / problem.path,
                fix="give the dump with its image lists, or restore the file from a copy",
            )
    if restored != manifest:
        write_manifest(job.output, restored, job.classes)
    return restored


def _tables_lost(job: Job, dataset: Dataset) -> bool:
    files = dataset.manifest.labels[job.labels.name].files
    return any(changed(dataset.directory / file.path, file.sha256) for file in files)


def _lost_tars(dataset: Dataset) -> Iterator[Problem]:
    for shard in dataset.manifest.shards:
        tar, index = dataset.directory / shard.path, dataset.directory / shard.index
        if not (tar.is_file() and tar.stat().st_size == shard.bytes and index.is_file()):
            yield Problem(path=shard.path, what="missing", kind=Kind.TAR)


def _members(job: Job, dataset: Dataset, set_aside: Quarantine) -> list[Members]:
    """List the images of every tar; where tables and indexes are lost, those planned for it."""
    try:
        return members_in(dataset)
    except InputError:
        planned = {plan.name: plan.image_ids_N for plans in job.plans.values() for plan in plans}
    members = []
    for shard in dataset.manifest.shards:
        planned_N = planned.get(shard.name, np.empty(0, np.uint64))
        failed_N = parse_image_ids(sorted(set_aside.images().image_ids(shard.split)))
        gone_N = np.concatenate([failed_N, dataset.manifest.removed_ids])
        image_ids_N = planned_N[~np.isin(planned_N, gone_N)]
        if len(image_ids_N) != shard.images:
            raise InputError(
                f"which {shard.images} images it held is not known any more: "
                "its index and all label tables are lost",
                file=dataset.directory / shard.path,
                fix="restore a label table from a copy, or choose another --output",
            )
        members.append(Members(shard=shard, image_ids_N=image_ids_N))
    return members
