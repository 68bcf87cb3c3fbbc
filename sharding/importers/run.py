"""The import job: the shard job on a foreign collection, then its single-positive labels."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from sharding import unfinished
from sharding.atomic import sweep
from sharding.commit import NewLabels, arrange, members_in
from sharding.convert import convert
from sharding.dispatch import ParallelMap
from sharding.errors import InputError
from sharding.files import sha256_of
from sharding.importers.prepare import ImportJob
from sharding.importers.published import comparison
from sharding.labels import LabelTable
from sharding.manifest import Dataset
from sharding.reshard import add_labels
from sharding.summary import Summary, summarise


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A finished import: the dataset in numbers, and the papers' numbers beside them."""

    summary: Summary

    def __str__(self) -> str:
        remark = comparison(self.summary.manifest)
        return str(self.summary) if remark is None else f"{self.summary}\n  {'papers':<12} {remark}"


def import_collection(job: ImportJob, parallel: ParallelMap) -> Imported:
    """Write what is not there yet; a killed import is finished by repeating it.

    Raises:
        InputError: as `sharding.convert.convert`.
    """
    started = time.monotonic()
    summary = convert(job, parallel)
    new = job.single_positive
    if new is None:
        return Imported(summary=summary)
    with unfinished.holding(job.output):
        dataset = Dataset.open(job.output)
        current = _is_current(dataset, new)
        if not current:
            sweep(job.output)
            add_labels(dataset, new, None, parallel, make_default=True)
    return Imported(
        summary=summarise(
            job.output,
            Dataset.open(job.output).manifest,
            seconds=summary.seconds if current else time.monotonic() - started,
            continued=summary.continued,
            how=summary.how,
            forgotten=summary.forgotten,
        )
    )


def _is_current(dataset: Dataset, new: NewLabels) -> bool:
    """Whether the dataset has these labels, whole, for all images that it holds, as default."""
    version = dataset.manifest.labels.get(new.name)
    if version is None or dataset.manifest.default_labels != new.name:
        return False
    members = members_in(dataset)
    for split, labels in new.splits.items():
        file = version.splits[split]
        for table in filter(None, (file, file.without_pixels)):
            path = dataset.directory / table.path
            if not path.is_file() or sha256_of(path) != table.sha256:
                return False
        at_hand = [part for part in members if part.shard.split == split]
        try:
            if not _equal(dataset.labels(split, new.name), arrange(labels.table, at_hand)):
                return False
        except InputError:
            return False
    return True


def _equal(first: LabelTable, second: LabelTable) -> bool:
    return (
        np.array_equal(first.image_ids_N, second.image_ids_N)
        and np.array_equal(first.offsets_N1, second.offsets_N1)
        and np.array_equal(first.classes_E, second.classes_E)
        and np.array_equal(first.states_E, second.states_E)
    )
