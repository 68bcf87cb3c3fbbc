"""Is a dataset what its manifest says? Every file hashed, every table read, nothing over.

Checks only look. What they find is a list of problems, each with the file, what is wrong with it
and how to mend it; `sharding.repair` mends what can be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from sharding.atomic import stable_json
from sharding.beside import broken_beside
from sharding.card import FILE as CARD_FILE
from sharding.card import card
from sharding.carried import carried
from sharding.commit import INFO_FILE, info
from sharding.errors import AGAIN, InputError
from sharding.files import Files, LocalFiles, changed
from sharding.labels import POSITIVE, LabelTable
from sharding.manifest import Dataset, LabelFile, ShardRecord
from sharding.problem import REPAIR, WITH_IMAGES, Problem
from sharding.quarantine import FILE as QUARANTINE_FILE
from sharding.quarantine import HASH as QUARANTINE_HASH
from sharding.quarantine import Quarantine
from sharding.shardsource import read_index
from sharding.strays import check_orphans, check_records, check_reports
from sharding.versions import how_to_write_again

ParallelCheck = Callable[
    [Callable[[ShardRecord], "list[Problem]"], Sequence[ShardRecord]], Iterable["list[Problem]"]
]


def verify(
    dataset: Dataset,
    parallel: ParallelCheck,
    *,
    hashed: Collection[str] | None = None,
    files: Files | None = None,
) -> list[Problem]:
    """Everything that is wrong with a dataset, sorted by path.

    Args:
        dataset: opened, so that manifest and class list are known to fit each other.
        parallel: maps the check of a shard over all of them.
        hashed: tars whose content is hashed, all by default; of others the size is compared.
        files: where tars and indexes are looked at, if that is not the dataset's directory.
    """
    files = files or LocalFiles(directory=dataset.directory)
    check = partial(check_shard, files, hashed=hashed)
    found: list[Problem] = []
    for problems in parallel(check, dataset.manifest.shards):
        found += problems
    broken = {problem.path for problem in found if problem.kind == "tar"}
    for name, version in dataset.manifest.labels.items():
        for split, file in version.splits.items():
            found += _labels(dataset, name, split, file, broken)
    found = _in_order(dataset, found)
    found += _beside(dataset)
    found += check_quarantine(dataset)
    found += check_derived(dataset)
    found += check_records(dataset)
    found += check_reports(dataset)
    found += check_orphans(dataset)
    return sorted(found)


def check_shard(
    files: Files, shard: ShardRecord, *, hashed: Collection[str] | None
) -> list[Problem]:
    """What is wrong with one tar and its index; runs on a worker."""
    problems = []
    size = files.size(shard.path)
    must_hash = hashed is None or shard.path in hashed
    if size is None:
        problems.append(Problem(path=shard.path, what="missing", fix=WITH_IMAGES, kind="tar"))
    elif size != shard.bytes:
        what = f"{size:,} bytes, not {shard.bytes:,}"
        problems.append(Problem(path=shard.path, what=what, fix=WITH_IMAGES, kind="tar"))
    elif must_hash and files.sha256(shard.path) != shard.sha256:
        what = "its content has changed (SHA-256 differs)"
        problems.append(Problem(path=shard.path, what=what, fix=WITH_IMAGES, kind="tar"))
    fix = WITH_IMAGES if problems else REPAIR
    if files.size(shard.index) is None:
        problems.append(Problem(path=shard.index, what="missing", fix=fix, kind="index"))
    elif files.sha256(shard.index) != shard.index_sha256:
        what = "its content has changed; DALI would read wrong bytes"
        problems.append(Problem(path=shard.index, what=what, fix=fix, kind="index"))
    return problems


def _labels(
    dataset: Dataset, name: str, split: str, file: LabelFile, broken: Collection[str]
) -> Iterator[Problem]:
    records = [shard for shard in dataset.manifest.shards if shard.split == split]
    again = how_to_write_again(name)
    in_tars = carried(dataset.manifest).get(split) == name
    mendable = in_tars and not any(record.path in broken for record in records)
    problem = partial(Problem, path=file.path, fix=REPAIR if mendable else again, kind="labels")
    table = yield from _table(dataset, file, problem)
    if file.without_pixels is not None:
        # Nothing else in the dataset tells these labels.
        apart = partial(Problem, path=file.without_pixels.path, fix=again, kind="labels")
        yield from _table(dataset, file.without_pixels, apart)
    if table is None:
        return
    expected = [shard.path for shard in records for _ in range(shard.images)]
    if list(table.shards) != expected:
        yield problem(what=f"its {len(table)} rows do not follow the {len(expected)} images")
    for record in _misplaced(dataset, table.image_ids_N.tolist(), records):
        yield problem(what=f"lists other images than {record.path} holds")


def _table(
    dataset: Dataset, file: LabelFile, problem: Callable[..., Problem]
) -> Generator[Problem, None, LabelTable | None]:
    """Whether a table is what the manifest says; returns it if it can be read."""
    path = dataset.directory / file.path
    if (wrong := changed(path, file.sha256)) is not None:
        yield problem(what=wrong)
        return None
    try:
        table = LabelTable.read(path)
    except InputError as error:
        yield problem(what=error.problem)
        return None
    positives = int(np.count_nonzero(table.states_E == POSITIVE))
    counts = (len(table), positives, len(table.states_E) - positives)
    if counts != (file.images, file.positives, file.negatives):
        yield problem(what=f"images and labels are {counts}, not as the manifest says")
    if len(table.classes_E) and int(table.classes_E.max()) >= len(dataset.classes):
        yield problem(what=f"class {table.classes_E.max()} of {len(dataset.classes)}")
    return table


def _in_order(dataset: Dataset, problems: Iterable[Problem]) -> list[Problem]:
    """What to do first, for tars that must wait for the labels they carry."""
    problems = list(problems)
    paths = {problem.path for problem in problems}
    manifest, in_tars = dataset.manifest, carried(dataset.manifest)
    lost = {
        split: how_to_write_again(name)
        for split, name in in_tars.items()
        if manifest.labels[name].splits[split].path in paths
    }
    waiting = {
        path: lost[shard.split]
        for shard in manifest.shards
        if shard.split in lost
        for path in (shard.path, shard.index)
    }
    return [
        replace(problem, fix=f"{waiting[problem.path]}, then {problem.fix}")
        if problem.fix == WITH_IMAGES and problem.path in waiting
        else problem
        for problem in problems
    ]


def _misplaced(
    dataset: Dataset, ids: list[int], records: Sequence[ShardRecord]
) -> Iterator[ShardRecord]:
    """The tars whose indexes name other images than the table lists, in its order."""
    position = 0
    for record in records:
        expected = ids[position : position + record.images]
        position += record.images
        try:
            named = [int(key, 16) for key in read_index(dataset.directory / record.index)]
        except (InputError, ValueError):
            continue  # a problem of the index, told by `check_shard`
        if named != expected:
            yield record


def _beside(dataset: Dataset) -> Iterator[Problem]:
    for name, what in broken_beside(dataset.directory, dataset.manifest):
        yield Problem(path=name, what=what, fix=AGAIN, kind="beside")


def check_quarantine(dataset: Dataset) -> Iterator[Problem]:
    """Whether what was set aside is listed as it was."""
    manifest, path = dataset.manifest, dataset.directory / QUARANTINE_FILE
    fix = f"{REPAIR}; annotation rows come back by repeating the command that set them aside"
    problem = partial(Problem, path=QUARANTINE_FILE, fix=fix, kind="quarantine")
    try:
        entries = Quarantine.read(path)
    except InputError as error:
        yield problem(what=error.problem)
        return
    known = manifest.created_by.get(QUARANTINE_HASH)
    if len(entries) != manifest.quarantined:
        yield problem(what=f"{len(entries)} rows, not {manifest.quarantined}")
    elif known is not None and (wrong := changed(path, known)) is not None:
        yield problem(what=wrong)


def check_derived(dataset: Dataset) -> Iterator[Problem]:
    """Whether what is told elsewhere is what the manifest says."""
    manifest = dataset.manifest
    expected = {
        INFO_FILE: stable_json(info(manifest.name, manifest.shards)),
        CARD_FILE: card(manifest, dataset.classes),
    }
    for name, content in expected.items():
        path = dataset.directory / name
        if not path.is_file() or path.read_bytes() != content.encode():
            what = "missing" if not path.is_file() else "differs from the manifest"
            yield Problem(path=name, what=what, fix=REPAIR, kind="derived")
