"""Lay the labels of a mended collection over the images of a finished import."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sharding import log
from sharding.commands.option_checks import refuse_ignored
from sharding.commands.reshard import refuse_other_content
from sharding.commands.summary import Resharded
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.dataset.duplicates import refuse_across_in
from sharding.dataset.label_versions import NewLabels, arrange, tar_labels
from sharding.dataset.members import Members, ids_of, members_in
from sharding.dataset.publish import remove_outdated
from sharding.errors import InputError, command
from sharding.image_ids import Ids, format_image_ids, parse_image_ids
from sharding.importers.collection import class_look
from sharding.importers.prepare import ImportJob, table_counts
from sharding.labels import NEGATIVE, UNOBSERVED, LabelTable
from sharding.layout import NAMES_FILE, NAMES_HASH, SPLITS, diff_path
from sharding.log import count
from sharding.maintenance.diff import Comparison
from sharding.maintenance.extend import add_labels
from sharding.manifest import Dataset, Manifest
from sharding.sources.named import Names
from sharding.storage.files import changed, refuse_changed, remove_temporaries, write_json


def relabel(job: ImportJob, workspace: Workspace, started: float) -> Resharded:
    """Add the labels of a mended collection over the images of a finished import.

    Pixels, splits and the default labels stay as they are.

    Raises:
        InputError: as `labels_for`; single positives are asked for too; an option says otherwise
            than the images are; or the dataset has labels of this name from another table.
    """
    if job.single_positive is not None:
        name = job.single_positive.name
        arguments = ("--dataset", job.output, "--base", job.labels.name, "--labels", f"{name}-new")
        raise InputError(
            f"{name} is there already, drawn from the labels before",
            file=job.output,
            fix="leave out --single-positive, and then run "
            + command("reshard", *arguments, "--single-positive"),
        )
    with lock.acquire(job.output):
        dataset = Dataset.open(job.output)
        drawn = _drawn(dataset.manifest, job.labels.release)
        why = f"with --labels {job.labels.name} over images that are there already"
        refuse_ignored(job.asked, _unlike(job, dataset, drawn), why)
        if job.asked.refuse_cross_split_duplicates:
            refuse_across_in(dataset, workspace.workers(map))
        new = labels_for(dataset, job).without(dataset.manifest.removed_ids)
        remove_temporaries(job.output)
        remove_outdated(job.output, dataset.manifest)
        refuse_other_content(dataset, new)
        compared = Comparison.of(dataset, None, new)
        if compared is not None:
            dataset = compared.noted_in(dataset, new)
        add_labels(dataset, new, None, workspace.workers(map))
        labelled = Dataset.open(job.output)
        diff = {} if compared is None else compared.report(labelled, new)
        if diff:
            write_json(job.output / diff_path(new.name), diff)
    return Resharded(
        location=workspace.location,
        dataset=labelled,
        name=new.name,
        diff=diff,
        added=0,
        rewritten=0,
        seconds=time.monotonic() - started,
    )


def _drawn(manifest: Manifest, release: str) -> dict[str, Any]:
    """Look up how splits of the finished import were drawn: what its first labels record."""
    names = [*tar_labels(manifest).values(), *manifest.labels]
    versions = (manifest.labels[name] for name in names if name in manifest.labels)
    policy = next((version.policy for version in versions if version.release == release), {})
    return {split: policy[split] for split in SPLITS if split in policy}


def _unlike(job: ImportJob, dataset: Dataset, drawn: Mapping[str, Any]) -> list[str]:
    """List the options about images and splits of which the dataset was made with others.

    Those of the draws count where they would draw otherwise: a table may name the splits itself.
    """
    asked, policy = job.asked, job.labels.policy
    manifest, treatment = dataset.manifest, dataset.manifest.treatment
    made: dict[str, Any] = {
        "shorter_side": treatment.get("shorter_side"),
        "quality": treatment.get("quality"),
        "trust_images": treatment.get("mode") == "trust",
        "images_per_shard": manifest.images_per_shard,
        "placement_seed": manifest.seed,
        "group_by": dataset.classes.group_by,
        "retry_failed": False,
    }
    if any(policy.get(split) != drawn.get(split) for split in SPLITS):
        seeds = [draw["seed"] for draw in drawn.values()]
        made |= {
            "split_seed": asked.split_seed if asked.split_seed in seeds else None,
            "test_share": drawn.get("test", {}).get("share", 0),
            "validation_share": drawn.get("validation", {}).get("share", 0),
        }
    return [name for name, value in made.items() if getattr(asked, name) != value]


def labels_for(dataset: Dataset, job: ImportJob) -> NewLabels:
    """Convert a job's labels to the classes of a dataset; its images stay in their splits.

    How these were drawn is recorded as the dataset has it: the draws of the new table count for
    nothing.

    A class that a CSV does not name any more is in every image what one is that its row leaves out;
    one that it names, and that its class list leaves out, is unobserved.

    Raises:
        InputError: the collection has a class that the dataset lacks, or no image of a split.
    """
    classes, splits = dataset.classes, job.labels.splits
    keys = zip(job.classes.mids, job.classes.names, strict=True)
    if lacking := [name for key, name in keys if key not in classes.index_of]:
        raise InputError(
            f"{count(len(lacking), 'class')} not of this dataset: {', '.join(lacking[:5])}",
            file=job.output,
            fix="mend the names, or choose another --output: other classes are another network's",
        )
    columns = [classes.index_of[key] for key in job.classes.mids]
    tables = [labels.table for labels in splits.values()]
    ids_N = np.concatenate([table.image_ids_N for table in tables])
    old_NK = np.concatenate([table.dense(np.arange(len(table)), len(columns)) for table in tables])
    labels_NK = np.full((len(ids_N), len(classes)), UNOBSERVED, np.int8)
    if job.labels.policy.get("unlisted") == "negative":  # but where a row was set aside
        labels_NK[(old_NK != UNOBSERVED).all(axis=1)] = NEGATIVE
    looks = set(map(class_look, job.left_out))
    labels_NK[:, [class_look(name) in looks for name in classes.names]] = UNOBSERVED
    labels_NK[:, columns] = old_NK
    split_N = np.repeat(np.array([*splits], object), [len(table) for table in tables])
    members = members_in(dataset)
    _check_images(ids_N, members, job)
    for split, first_M in _first_splits(dataset).items():
        split_N[np.isin(ids_N, first_M)] = split
    for part in members:
        split_N[np.isin(ids_N, part.image_ids_N)] = part.shard.split
    none = dataclasses.replace(next(iter(splits.values())), report={}, rejected_rows=())
    found = {}
    for split in dict.fromkeys([*splits, *split_N.tolist()]):
        labels = splits.get(split, none)
        (rows,) = np.nonzero(split_N == split)
        rows = rows[np.argsort(ids_N[rows])]
        table = LabelTable.from_dense(ids_N[rows], labels_NK[rows])
        counts = table_counts(table, len(classes))
        found[split] = dataclasses.replace(labels, table=table, report={**labels.report, **counts})
    policy = {key: value for key, value in job.labels.policy.items() if key not in SPLITS}
    policy |= _drawn(dataset.manifest, job.labels.release)
    return dataclasses.replace(job.labels, splits=found, policy=policy)


def _first_splits(dataset: Dataset) -> dict[str, Ids]:
    """Read the ids of each split as the import had them, images without pixels included.

    Raises:
        InputError: the table of names is missing or damaged.
    """
    manifest, path = dataset.manifest, dataset.directory / NAMES_FILE
    if NAMES_HASH not in manifest.created_by:  # not an import: `_check_images` refuses it
        return {}
    refuse_changed(path, manifest.created_by[NAMES_HASH])
    return {s: parse_image_ids(list(names)) for s, names in Names.read(path).by_split.items()}


def _check_images(ids_N: Ids, members: Sequence[Members], job: ImportJob) -> None:
    """Refuse labels that name no image of a split; tell how many images they leave without."""
    for split in dict.fromkeys(part.shard.split for part in members):
        held_N = ids_of(split, members)
        missing = int(np.count_nonzero(~np.isin(held_N, ids_N)))
        if missing == len(held_N) and split not in job.options.allow_empty:
            raise InputError(
                f"none of the {missing:,} images of {split} has a row that can be used",
                file=job.options.annotations,
                fix=f"write paths as in the first table, or pass --allow-empty {split}",
            )
        if missing:
            said = f"{split}: {missing:,} images have no row that can be used, and so no label"
            log.info(said, "WARNING")
    extra_N = np.setdiff1d(ids_N, np.concatenate([part.image_ids_N for part in members]))
    if len(extra_N):
        wanted = set(format_image_ids(extra_N))
        named = [
            n for names in job.names.by_split.values() for i, n in names.items() if i in wanted
        ]
        log.info(
            f"{count(len(named), 'image')} of the table without pixels here: "
            f"{', '.join(sorted(named)[:5])}; new images need another --output",
            "WARNING",
        )


def is_current(dataset: Dataset, new: NewLabels) -> bool:
    """Test whether the dataset has these labels, intact, for all images it holds."""
    version = dataset.manifest.labels.get(new.name)
    if version is None or version.splits.keys() != new.splits.keys():
        return False
    members = members_in(dataset)
    for split, labels in new.splits.items():
        file = version.splits[split]
        tables = [table for table in (file, file.without_pixels) if table is not None]
        if any(changed(dataset.directory / table.path, table.sha256) for table in tables):
            return False
        if not _equal(dataset.labels(split, new.name), arrange(labels.table, split, members)):
            return False
    return True


def _equal(first: LabelTable, second: LabelTable) -> bool:
    names = ("image_ids_N", "offsets_N1", "classes_E", "states_E")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)
