"""Run the remove job: take images down, from their tars, from every table, and for good.

Only the tars that hold them are written anew, under new names, with the other JPEGs as they were.
The manifest keeps the ids, so that no later dump, retry or repair brings the images back.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sharding import log
from sharding.commands.options import RemoveOptions
from sharding.commands.summary import aligned
from sharding.commands.verify import SMALL
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.dataset.confidence_versions import tables_of
from sharding.dataset.label_versions import (
    labels_to_repair_with,
    tar_labels,
    with_tar_labels,
)
from sharding.dataset.members import Members, members_in
from sharding.dataset.publish import publish_removal, remove_outdated, write_manifest
from sharding.errors import InputError, how_to_repair
from sharding.image_ids import Ids, format_image_ids, parse_image_ids
from sharding.layout import (
    DUPLICATES,
    IMAGES_FOLDER,
    INDEX,
    NEXT_NUMBER,
    RECORD,
    SET_ASIDE_FOLDER,
    SPLITS,
    TAR,
    UNCOUNTED,
    UNFINISHED_REMOVAL,
    parse_shard_name,
)
from sharding.log import count
from sharding.maintenance.checks import check_shard, check_side_files
from sharding.maintenance.extend import rewrite
from sharding.maintenance.problems import Kind, Problem
from sharding.maintenance.takedown import how_to_finish, read_asked, unknown_ids
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import ShardRecord
from sharding.shards.dispatch import Workers
from sharding.sources.base import ParallelMap
from sharding.sources.shard import WITH_IMAGES
from sharding.storage.files import changed, remove_temporaries
from sharding.storage.object_store import ObjectStore
from sharding.storage.tar_index import read_index


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Describe what a takedown did.

    Attributes:
        location: directory or URL of the dataset.
        dataset: as it is now.
        before: its manifest before.
        ids: number of them that were asked for.
        unknown: those of them that the dataset never had, as they were written.
        tars: that held some of the images; None where all was done before.
        seconds: it took.
    """

    location: str
    dataset: Dataset
    before: Manifest
    ids: int
    unknown: Sequence[str]
    tars: int | None
    seconds: float

    def __str__(self) -> str:
        if self.tars is None:
            return f"{self.location}: these were removed before; nothing was done."
        gone: Counter[str] = Counter()
        for shard in self.before.shards:
            gone[shard.split] += shard.images
        for shard in self.dataset.manifest.shards:
            gone[shard.split] -= shard.images
        rows = [(s, f"{count(gone[s], 'image')} out of its tars") for s in SPLITS if gone[s]]
        if self.unknown:
            named = f"{count(len(self.unknown), 'id')} not of this dataset: {_listed(self.unknown)}"
            rows.append(("unknown", f"{named}; kept out of what is added later"))
        rows.append(("labels", f"without them: {', '.join(self.dataset.manifest.labels)}"))
        rows.append(("elsewhere", "copies, predictions, review sheets and runs keep theirs"))
        first = (
            f"{count(self.ids - len(self.unknown), 'id')} removed from {self.location} for good, "
            f"in {self.seconds:.1f} s; {count(self.tars, 'tar')} replaced."
        )
        return aligned(first, rows)


def remove(
    options: RemoveOptions, parallel: ParallelMap, workspace: Workspace | None = None
) -> Removed:
    """Take images down; a killed command is repeated.

    Args:
        options: whose dataset is a directory, the workspace's if there is one.
        parallel: spreads work over the cluster.
        workspace: of the dataset, if it is in a bucket.

    Raises:
        InputError: an id is malformed or unknown, nothing would be left, or a table or a tar that
            has to be written anew is damaged; the dataset is then as it was.
    """
    started = time.monotonic()
    workspace = workspace or Workspace(Path(options.dataset))
    directory = workspace.directory
    Dataset.open(directory)  # before a mistyped one would be made
    with lock.acquire(directory):
        dataset = Dataset.open(directory)
        remove_temporaries(directory)
        remove_outdated(directory, dataset.manifest)  # of a job killed after it wrote the manifest
        asked = read_asked(options.ids, options.file, dataset)
        asked_M = np.unique(parse_image_ids(list(asked)))
        members = members_in(dataset)
        absent = {*unknown_ids(dataset, asked_M, members)}
        unknown = tuple(written for image_id, written in asked.items() if image_id in absent)
        if unknown and not options.allow_unknown:
            raise _refused(unknown, dataset.manifest, workspace.location)
        tars = _take_down(dataset, asked_M, members, parallel, workspace)
        _delete_left_over(workspace)
        _warn_of_set_aside(workspace)
        return Removed(
            location=workspace.location,
            dataset=Dataset.open(directory),
            before=dataset.manifest,
            ids=len(asked_M),
            unknown=unknown,
            tars=tars,
            seconds=time.monotonic() - started,
        )


def _refused(unknown: Sequence[str], manifest: Manifest, location: str) -> InputError:
    fix = "check the ids, or pass --allow-unknown to keep them out of later dumps"
    if first := how_to_finish(manifest):
        fix = f"{first}, then {fix}"
    others = f", nor {len(unknown) - 1:,} others of these" if len(unknown) > 1 else ""
    return InputError(f"the dataset has no image {unknown[0]}{others}", file=location, fix=fix)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5:,} others" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


def _take_down(
    dataset: Dataset,
    asked_M: Ids,
    members: Sequence[Members],
    parallel: ParallelMap,
    workspace: Workspace,
) -> int | None:
    """Publish the dataset without the images; return how many tars held any, None if all was done.

    The manifest names the ids first: what a killed job leaves knows what has still to be removed.
    """
    manifest = dataset.manifest
    removed_M = np.union1d(manifest.removed_ids, asked_M)
    is_new = len(removed_M) > len(manifest.removed_ids)
    if not is_new and UNFINISHED_REMOVAL not in manifest.created_by:
        return None
    smaller, untouched = _without(members, removed_M)
    shards = [part.shard for part in smaller if len(part.image_ids_N)]
    if not untouched and not shards:
        raise InputError(
            "no image would be left", file=dataset.directory, fix="remove the directory instead"
        )
    small = sum(shard.bytes for shard in shards) < SMALL
    workers = workspace.workers(map if small else parallel)
    _refuse_damaged(dataset, shards, workers, workspace.store)
    if is_new:
        manifest = dataclasses.replace(manifest, removed=tuple(format_image_ids(removed_M)))
        manifest = manifest.with_provenance(**{UNFINISHED_REMOVAL: "repeat the remove command"})
        write_manifest(dataset.directory, manifest, dataset.classes)
        workspace.push()
        dataset = dataclasses.replace(dataset, manifest=manifest)
    versions = labels_to_repair_with(manifest)
    tables = {split: dataset.labels(split, versions[split]) for split in {s.split for s in shards}}
    rewritten = rewrite(dataset, [p for p in smaller if len(p.image_ids_N)], tables, workers)
    left = [*untouched, *rewritten]
    publish_removal(dataset, left, _created_by(manifest, [part.shard for part in left]))
    return len(smaller)


def _without(members: Iterable[Members], image_ids_M: Ids) -> tuple[list[Members], list[Members]]:
    """Split tars into those that hold any of the images, without these, and all others."""
    smaller, untouched = [], []
    for part in members:
        kept_N = part.image_ids_N[~np.isin(part.image_ids_N, image_ids_M)]
        if len(kept_N) < len(part.image_ids_N):
            smaller.append(dataclasses.replace(part, image_ids_N=kept_N))
        else:
            untouched.append(part)
    return smaller, untouched


def _created_by(manifest: Manifest, shards: Sequence[ShardRecord]) -> dict[str, str]:
    """Copy ``created_by`` with what follows from other tars."""
    after = dataclasses.replace(manifest, shards=tuple(shards), created_by={})
    numbers = {
        f"{NEXT_NUMBER}/{split}": str(manifest.next_number(split))
        for split in {shard.split for shard in manifest.shards}
        if after.next_number(split) < manifest.next_number(split)
    }
    left = {shard.split for shard in shards}
    created_by = {**with_tar_labels(manifest.created_by, tar_labels(manifest), left), **numbers}
    del created_by[UNFINISHED_REMOVAL]
    if DUPLICATES in created_by and {*shards} != {*manifest.shards}:
        created_by[DUPLICATES] = UNCOUNTED
    return created_by


def _refuse_damaged(
    dataset: Dataset, shards: Sequence[ShardRecord], workers: Workers, store: ObjectStore
) -> None:
    """Refuse to copy from tars and tables that are not what the manifest says.

    An earlier removal that was killed may have replaced tables already.
    """
    if UNFINISHED_REMOVAL not in dataset.manifest.created_by:
        tables = [
            Problem(path=file.path, what=wrong, kind=Kind.LABELS, labels=name)
            for name, version in dataset.manifest.labels.items()
            for file in version.files
            if (wrong := changed(dataset.directory / file.path, file.sha256)) is not None
        ]
        tables += [
            Problem(path=file.path, what=wrong, kind=Kind.CONFIDENCES)
            for file in tables_of(dataset.manifest)
            if (wrong := changed(dataset.directory / file.path, file.sha256)) is not None
        ]
        for problem in (*tables, *check_side_files(dataset.directory, dataset.manifest)):
            file = dataset.directory / problem.path
            raise InputError(problem.what, file=file, fix=problem.fix)
    check = partial(check_shard, store, hashed=None)
    for problems in workers.parallel(check, shards):
        for problem in problems:
            file = dataset.directory / problem.path
            raise InputError(problem.what, file=file, fix=how_to_repair(file, *WITH_IMAGES))


def _delete_left_over(workspace: Workspace) -> None:
    """Delete tars with removed images that killed jobs left, which can write the others again.

    They have a record. Without one a tar may be of a newer manifest than this, and is named.
    """
    directory = workspace.directory
    named = {shard.path for shard in Manifest.read(directory).shards}
    paths = (path.relative_to(directory) for path in (directory / IMAGES_FOLDER).glob(f"*{TAR}"))
    others = [p for p in paths if p.as_posix() not in named and parse_shard_name(p.as_posix())]
    for tar, what in _may_hold_removed(workspace, others):
        if (directory / tar).with_suffix(RECORD).exists():
            for suffix in (TAR, INDEX, RECORD):
                (directory / tar).with_suffix(suffix).unlink(missing_ok=True)
            log.info(f"{tar} of a killed job {what}: deleted; its command writes the others again")
        else:
            log.info(f"{tar} {what}; the manifest does not name it: delete it", "WARNING")


def _warn_of_set_aside(workspace: Workspace) -> None:
    """Name the tars that repairs have set aside and that may still hold removed images."""
    directory = workspace.directory
    tars = [path.relative_to(directory) for path in (directory / SET_ASIDE_FOLDER).rglob(f"*{TAR}")]
    for tar, what in _may_hold_removed(workspace, tars):
        log.info(f"{tar} {what}; a repair set it aside: delete it", "WARNING")


def _may_hold_removed(workspace: Workspace, tars: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Find the tars whose indexes name removed images, or cannot be read; say which it is."""
    directory = workspace.directory
    removed_M = Manifest.read(directory).removed_ids
    workspace.download(tar.with_suffix(INDEX).as_posix() for tar in tars)
    for tar in sorted(tars):
        try:
            held = parse_image_ids(list(read_index(directory / tar.with_suffix(INDEX))))
        except InputError:
            yield tar, "may hold removed images, as it has no readable index"
        else:
            if np.isin(held, removed_M).any():
                yield tar, "still holds removed images"
