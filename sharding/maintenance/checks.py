"""One thing that is wrong with a dataset, and how to mend it.

Is a dataset what its manifest says? Every file hashed, every table read, nothing over.

Checks only look. What they find is a list of problems, each with the file, what is wrong with it
and how to mend it; `sharding.maintenance.repair` mends what can be.

Files beside tars and tables: records of shards, reports, and what the manifest does not name.

Files that follow from the dump alone: the class list, how images are turned, names, authors.

Tars and tables are made by them, so that none of them may change unseen. The manifest knows their
hashes; the command that made a dataset writes them again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sharding.dataset.card import card
from sharding.dataset.label_versions import carried, how_to_write_again
from sharding.dataset.publish import info
from sharding.dataset.quarantine import Quarantine
from sharding.errors import REPEAT_COMMAND, InputError
from sharding.labels import POSITIVE, LabelTable
from sharding.layout import (
    CARD_FILE,
    CLASSES_FILE,
    IMAGES_FOLDER,
    INFO_FILE,
    MANIFEST_FILE,
    QUARANTINE_FILE,
    QUARANTINE_HASH,
    REPAIR,
    REPAIR_WITH_IMAGES,
    SIDE_FILES,
    WANTED_FILE,
    WITHOUT_PIXELS,
    record_path,
)
from sharding.manifest import Dataset, LabelFile, Manifest, ShardRecord
from sharding.storage.files import changed, stable_json
from sharding.storage.object_store import ObjectStore
from sharding.storage.tar_index import read_index


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: of the file, relative to the dataset.
        what: is wrong.
        fix: how to mend it.
        kind: "tar", "index", "record", "labels", "beside", "quarantine", "derived", "orphan" or
            "stranger".
    """

    path: str
    what: str
    fix: str
    kind: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. Fix: {self.fix}"


ParallelCheck = Callable[
    [Callable[[ShardRecord], "list[Problem]"], Sequence[ShardRecord]], Iterable["list[Problem]"]
]


def check_dataset(
    dataset: Dataset,
    parallel: ParallelCheck,
    *,
    hashed: Collection[str] | None = None,
    files: ObjectStore | None = None,
) -> list[Problem]:
    """Everything that is wrong with a dataset, sorted by path.

    Args:
        dataset: opened, so that manifest and class list are known to fit each other.
        parallel: maps the check of a shard over all of them.
        hashed: tars whose content is hashed, all by default; of others the size is compared.
        files: where tars and indexes are looked at, if that is not the dataset's directory.
    """
    files = files or ObjectStore.local(dataset.directory)
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
    files: ObjectStore, shard: ShardRecord, *, hashed: Collection[str] | None
) -> list[Problem]:
    """What is wrong with one tar and its index; runs on a worker."""
    problems = []
    size = files.size(shard.path)
    must_hash = hashed is None or shard.path in hashed
    if size is None:
        problems.append(
            Problem(path=shard.path, what="missing", fix=REPAIR_WITH_IMAGES, kind="tar")
        )
    elif size != shard.bytes:
        what = f"{size:,} bytes, not {shard.bytes:,}"
        problems.append(Problem(path=shard.path, what=what, fix=REPAIR_WITH_IMAGES, kind="tar"))
    elif must_hash and files.sha256(shard.path) != shard.sha256:
        what = "its content has changed (SHA-256 differs)"
        problems.append(Problem(path=shard.path, what=what, fix=REPAIR_WITH_IMAGES, kind="tar"))
    fix = REPAIR_WITH_IMAGES if problems else REPAIR
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
        if problem.fix == REPAIR_WITH_IMAGES and problem.path in waiting
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
        yield Problem(path=name, what=what, fix=REPEAT_COMMAND, kind="beside")


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


OURS = re.compile(
    r"(?:.*\.tmp\..*|images/[a-z]+-\d{6}\.(?:tar|idx|json)|unfinished\.json|staging/\w+\.\w+"
    rf"|labels/[^/]+/[a-z]+{re.escape(WITHOUT_PIXELS)}\.parquet)"
)
"""Paths that only our jobs write: orphans of these may be removed."""


def check_records(dataset: Dataset) -> Iterator[Problem]:
    """Records of committed tars that are lost: they know which images were set aside."""
    for shard in dataset.manifest.shards:
        path = record_path(shard.path)
        shard_of = _field(dataset.directory / path, "shard")
        if not isinstance(shard_of, dict) or shard_of.get("path") != shard.path:
            there = (dataset.directory / path).is_file()
            what = "not the record of its tar" if there else "missing"
            yield Problem(path=path, what=what, fix=REPAIR, kind="record")


def check_reports(dataset: Dataset) -> Iterator[Problem]:
    """Reports of label versions that cannot be read."""
    for name in dataset.manifest.labels:
        path = f"labels/{name}/diff.json"
        file = dataset.directory / path
        if file.is_file() and _field(file, "against") is None:
            fix = f"{REPAIR}, which removes it; the command that wrote labels {name} makes it anew"
            yield Problem(path=path, what="not a report", fix=fix, kind="orphan")


def check_orphans(dataset: Dataset) -> Iterator[Problem]:
    """Files that the manifest does not name."""
    named = {MANIFEST_FILE, CLASSES_FILE, QUARANTINE_FILE, INFO_FILE, CARD_FILE}
    named |= {name for key, name in SIDE_FILES.items() if key in dataset.manifest.created_by}
    for shard in dataset.manifest.shards:
        named |= {shard.path, shard.index, record_path(shard.path)}
    for name, version in dataset.manifest.labels.items():
        named |= {file.path for file in version.files}
        named |= {f"labels/{name}/{WANTED_FILE}", f"labels/{name}/diff.json"}
    for path in sorted(dataset.directory.rglob("*")):
        relative = path.relative_to(dataset.directory).as_posix()
        if path.is_dir() or relative in named:
            continue
        record = relative.startswith(f"{IMAGES_FOLDER}/") and relative.endswith(".json")
        if record and _field(path, "shard", missing="") is None:
            continue  # of a shard of which no image could be used: it has no tar
        ours = OURS.fullmatch(relative) is not None
        fix = REPAIR if ours else "move it elsewhere, if nobody needs it here"
        kind = "orphan" if ours else "stranger"
        yield Problem(path=relative, what="the manifest does not name it", fix=fix, kind=kind)


def _field(path: Path, name: str, missing: Any = None) -> Any:
    """A field of a JSON file, ``missing`` where there is no such thing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError):
        return missing


def broken_beside(directory: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it) of those that the manifest names."""
    for key, name in SIDE_FILES.items():
        known = manifest.created_by.get(key)
        if known is not None and (wrong := changed(directory / name, known)) is not None:
            yield name, wrong
