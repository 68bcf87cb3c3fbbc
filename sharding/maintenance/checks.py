"""Check a dataset against its manifest: hash its files, read its tables, list unknown files.

Checks change nothing. `sharding.maintenance.repair` mends what can be mended.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from sharding.confidences import read_parts
from sharding.dataset.confidence_versions import tables_of
from sharding.dataset.croissant import COMPARED, croissant
from sharding.dataset.energon import energon
from sharding.dataset.label_versions import labels_to_repair_with, tar_labels
from sharding.dataset.members import ids_of, members_in
from sharding.dataset.publish import info
from sharding.errors import InputError
from sharding.image_ids import Ids
from sharding.labels import POSITIVE, LabelTable
from sharding.layout import (
    CARD_FILE,
    CLASSES_FILE,
    CROISSANT_FILE,
    DESCRIPTIONS,
    ENERGON_INFO_FILE,
    IMAGES_FOLDER,
    INDEX,
    INFO_FILE,
    LABELS_CARD_FILE,
    LOCK_FILE,
    MANIFEST_FILE,
    QUARANTINE_FILE,
    QUARANTINE_HASH,
    RECORD,
    SET_ASIDE_FOLDER,
    SIDE_FILES,
    TAR,
    UNFINISHED_REMOVAL,
    diff_path,
    is_energon_index,
    is_hub_file,
    is_left_over,
    parse_shard_name,
    wanted_path,
)
from sharding.maintenance.problems import Kind, Problem
from sharding.maintenance.split_checks import check_splits
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import ConfidenceFile, LabelFile, ShardRecord
from sharding.storage.files import changed, stable_json
from sharding.storage.object_store import ObjectStore
from sharding.storage.tar_index import read_index

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
    """Find everything that is wrong with a dataset, sorted by path.

    Args:
        dataset: opened, so that manifest and class list are known to fit each other.
        parallel: maps the check of a shard over all of them.
        hashed: tars whose content is hashed, all by default; of others the size is compared.
        files: where tars and indexes are looked at, if that is not the dataset's directory.
    """
    files = files or ObjectStore.local(dataset.directory)
    check = partial(check_shard, files, hashed=hashed)
    problems = [p for of_shard in parallel(check, dataset.manifest.shards) for p in of_shard]
    broken_tars = {problem.path for problem in problems if problem.kind is Kind.TAR}
    for name, version in dataset.manifest.labels.items():
        for split in version.splits:
            problems += check_labels(dataset, name, split, broken_tars)
    problems += check_confidences(dataset)
    problems = _tars_after_labels(dataset.manifest, problems)
    problems += check_splits(dataset)
    if UNFINISHED_REMOVAL in dataset.manifest.created_by:
        what = f"{len(dataset.manifest.removed or ()):,} images are removed, but not from all files"
        problems.append(Problem(path=MANIFEST_FILE, what=what, kind=Kind.REMOVAL))
    problems += check_side_files(dataset.directory, dataset.manifest)
    problems += check_derived(dataset)
    problems += check_reports(dataset)
    problems += check_orphans(dataset)
    return sorted(problems)


def check_shard(
    files: ObjectStore, shard: ShardRecord, *, hashed: Collection[str] | None
) -> list[Problem]:
    """Check one tar and its index; runs on a worker."""
    problems = []
    size = files.size(shard.path)
    must_hash = hashed is None or shard.path in hashed
    if size is None:
        problems.append(Problem(path=shard.path, what="missing", kind=Kind.TAR))
    elif size != shard.bytes:
        what = f"{size:,} bytes, not {shard.bytes:,}"
        problems.append(Problem(path=shard.path, what=what, kind=Kind.TAR))
    elif must_hash and files.sha256(shard.path) != shard.sha256:
        what = "its content has changed (SHA-256 differs)"
        problems.append(Problem(path=shard.path, what=what, kind=Kind.TAR))
    kind = Kind.TAR if problems else Kind.INDEX
    if files.size(shard.index) is None:
        problems.append(Problem(path=shard.index, what="missing", kind=kind))
    elif files.sha256(shard.index) != shard.index_sha256:
        what = "its content has changed; DALI would read wrong bytes"
        problems.append(Problem(path=shard.index, what=what, kind=kind))
    return problems


def check_labels(
    dataset: Dataset, name: str, split: str, broken_tars: Collection[str]
) -> Iterator[Problem]:
    """Check the label tables of a version in a split against manifest and indexes."""
    file = dataset.manifest.labels[name].splits[split]
    records = [shard for shard in dataset.manifest.shards if shard.split == split]
    table, faults = _read_table(dataset, file)
    if table is not None:
        expected = [record.path for record in records for _ in range(record.images)]
        if list(table.shards) != expected:
            faults.append(f"its {len(table)} rows do not follow the {len(expected)} images")
        misplaced = _misplaced(dataset, table.image_ids_N.tolist(), records)
        faults += [f"lists other images than {record.path} holds" for record in misplaced]
    in_tars = tar_labels(dataset.manifest).get(split) == name
    mendable = in_tars and not any(record.path in broken_tars for record in records)
    kind, labels = (Kind.TAR_LABELS, "") if mendable else (Kind.LABELS, name)
    yield from (Problem(path=file.path, what=what, kind=kind, labels=labels) for what in faults)
    if file.without_pixels is not None:
        path = file.without_pixels.path
        _, faults = _read_table(dataset, file.without_pixels)
        yield from (Problem(path=path, what=w, kind=Kind.LABELS, labels=name) for w in faults)


def check_confidences(dataset: Dataset) -> Iterator[Problem]:
    """Check the tables of confidences against manifest and tars, a part of each at a time."""
    with contextlib.suppress(InputError):  # a problem of tables and indexes
        members = sorted(members_in(dataset), key=lambda part: part.shard.path)
        for file in tables_of(dataset.manifest):
            split = Path(file.path).stem
            what = changed(dataset.directory / file.path, file.sha256)
            if what is None:
                what = _wrong_confidences(dataset, file, ids_of(split, members))
            if what is not None:
                yield Problem(path=file.path, what=what, kind=Kind.CONFIDENCES)


def _wrong_confidences(dataset: Dataset, file: ConfidenceFile, ids_N: Ids) -> str | None:
    """Say what is wrong with a table of confidences; None where nothing is."""
    rows = entries = 0
    try:
        for part in read_parts(dataset.directory / file.path):
            if (fault := part.fault(len(dataset.classes))) is not None:
                return fault
            if not np.array_equal(part.image_ids_N, ids_N[rows : rows + len(part)]):
                return "its rows do not follow the images"
            rows, entries = rows + len(part), entries + len(part.classes_E)
    except InputError as error:
        return error.problem
    if (rows, entries) != (file.images, file.entries) or rows != len(ids_N):
        return f"images and confidences are {rows, entries}, not as the manifest says"
    return None


def _read_table(dataset: Dataset, file: LabelFile) -> tuple[LabelTable | None, list[str]]:
    """Read a label table, None if that is impossible, and compare it with the manifest."""
    path = dataset.directory / file.path
    if (wrong := changed(path, file.sha256)) is not None:
        return None, [wrong]
    try:
        table = LabelTable.read(path)
    except InputError as error:
        return None, [error.problem]
    faults = []
    positives = int(np.count_nonzero(table.states_E == POSITIVE))
    counts = (len(table), positives, len(table.states_E) - positives)
    if counts != (file.images, file.positives, file.negatives):
        faults.append(f"images and labels are {counts}, not as the manifest says")
    if (fault := table.fault(len(dataset.classes))) is not None:
        faults.append(fault)
    return table, faults


def _misplaced(
    dataset: Dataset, ids: list[int], records: Sequence[ShardRecord]
) -> Iterator[ShardRecord]:
    """Find the tars whose indexes name other images than a table lists, in its order."""
    position = 0
    for record in records:
        expected = ids[position : position + record.images]
        position += record.images
        try:
            named = [int(key, 16) for key in read_index(dataset.directory / record.index)]
        except (InputError, ValueError):
            continue  # a problem of the index, which `check_shard` reports
        if named != expected:
            yield record


def _tars_after_labels(manifest: Manifest, problems: Sequence[Problem]) -> list[Problem]:
    """Note on broken tars which label table, broken too, has to be written again first."""
    paths = {problem.path for problem in problems}
    lost = {
        split: name
        for split, name in labels_to_repair_with(manifest).items()
        if manifest.labels[name].splits[split].path in paths
    }
    splits = {path: shard.split for shard in manifest.shards for path in (shard.path, shard.index)}
    return [
        replace(problem, labels=lost.get(splits[problem.path], ""))
        if problem.kind is Kind.TAR
        else problem
        for problem in problems
    ]


def check_side_files(directory: Path, manifest: Manifest) -> Iterator[Problem]:
    """Check the files whose hashes are in the manifest's ``created_by``."""
    for key, name in {**SIDE_FILES, QUARANTINE_HASH: QUARANTINE_FILE}.items():
        digest = manifest.created_by.get(key)
        if digest is not None and (wrong := changed(directory / name, digest)) is not None:
            kind = Kind.QUARANTINE if name == QUARANTINE_FILE else Kind.SIDE_FILE
            yield Problem(path=name, what=wrong, kind=kind)


def check_derived(dataset: Dataset) -> Iterator[Problem]:
    """Check the files that follow from the manifest; what people may edit has only to be there."""
    directory, manifest = dataset.directory, dataset.manifest
    names = [INFO_FILE, CARD_FILE]
    if any((directory / name).is_file() for name in DESCRIPTIONS):  # 0.1.0 wrote none
        names += DESCRIPTIONS
    for name in names:
        path = directory / name
        if not path.is_file():
            yield Problem(path=name, what="missing", kind=Kind.DERIVED)
        elif not _follows(manifest, name, path.read_bytes()):
            yield Problem(path=name, what="differs from the manifest", kind=Kind.DERIVED)


def _follows(manifest: Manifest, name: str, content: bytes) -> bool:
    if name == INFO_FILE:
        return content == stable_json(info(manifest.name, manifest.shards)).encode()
    if name == ENERGON_INFO_FILE:
        return content == energon(manifest)[name].encode()
    if name == CROISSANT_FILE:
        try:
            present = json.loads(content)
            return all(present[key] == croissant(manifest)[key] for key in COMPARED)
        except (ValueError, TypeError, KeyError):
            return False
    return True


def check_reports(dataset: Dataset) -> Iterator[Problem]:
    """Check that the reports on what label versions changed can be read."""
    for name in dataset.manifest.labels:
        path = dataset.directory / diff_path(name)
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            report = None
        if not isinstance(report, dict) or "against" not in report:
            what = f"not a report; the command that wrote labels {name} writes it again"
            yield Problem(path=diff_path(name), what=what, kind=Kind.ORPHAN)


def check_orphans(dataset: Dataset) -> Iterator[Problem]:
    """Find files that the manifest does not name; records of shards are nobody's concern.

    Tars get their names when they are whole: one that is not named may be of a killed job, or of a
    newer manifest than this one.
    """
    named = {MANIFEST_FILE, CLASSES_FILE, QUARANTINE_FILE, INFO_FILE, LOCK_FILE}
    named |= {CARD_FILE, LABELS_CARD_FILE, *DESCRIPTIONS}
    named |= {name for key, name in SIDE_FILES.items() if key in dataset.manifest.created_by}
    for shard in dataset.manifest.shards:
        named |= {shard.path, shard.index}
    for name, version in dataset.manifest.labels.items():
        named |= {file.path for file in version.files} | {wanted_path(name), diff_path(name)}
    named |= {file.path for file in tables_of(dataset.manifest)}
    for path in sorted(dataset.directory.rglob("*")):
        relative = path.relative_to(dataset.directory).as_posix()
        if path.is_dir() or relative in named or relative.startswith(f"{SET_ASIDE_FOLDER}/"):
            continue
        if is_energon_index(relative) or is_hub_file(relative):
            continue
        kind = Kind.ORPHAN if is_left_over(relative, dataset.manifest.labels) else Kind.STRANGER
        if relative.startswith(f"{IMAGES_FOLDER}/") and parse_shard_name(relative) is not None:
            if path.suffix == RECORD or (path.suffix == INDEX and path.with_suffix(TAR).exists()):
                continue
            kind = Kind.UNNAMED if path.suffix == TAR else kind
        yield Problem(path=relative, what="the manifest does not name it", kind=kind)
