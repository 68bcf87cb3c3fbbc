"""A new annotation dump over an existing dataset: new label tables, the same image tars.

Classes keep their index: the dump's labels are matched by MID, and what the dataset's class list
lacks is counted. Every older label version stays readable; choosing it is the way back.
"""

from __future__ import annotations

import time
from pathlib import Path

from sharding import unfinished
from sharding.atomic import sweep, write_json
from sharding.carried import carried, with_carried
from sharding.commit import NewLabels, members_in, members_of, quarantine_of
from sharding.comparison import Comparison
from sharding.dispatch import ParallelMap
from sharding.errors import InputError
from sharding.extend import (
    perform,
    remove_superseded,
    tasks_for_images,
    tasks_for_labels,
    without_pixels,
)
from sharding.ids import format_image_ids
from sharding.importers.source import open_images
from sharding.manifest import FILE, Dataset
from sharding.options import ReshardOptions
from sharding.publish import merged_failures, publish
from sharding.quarantine import FILE as QUARANTINE_FILE
from sharding.quarantine import Quarantine
from sharding.relabel import open_dump, read_labels
from sharding.shardsource import WITH_IMAGES
from sharding.sources import Source
from sharding.summary import Resharded

DIFF_FILE = "diff.json"


def reshard(options: ReshardOptions, parallel: ParallelMap) -> Resharded:
    """Write a label version, add shards for new images, write tars anew: as far as asked for.

    Raises:
        InputError: anything about dump, dataset or images that a user can mend.
    """
    started = time.monotonic()
    directory = Path(options.dataset)
    Dataset.open(directory)  # before a mistyped one would be made
    with unfinished.holding(directory):
        dataset = Dataset.open(directory)
        sweep(dataset.directory)
        remove_superseded(dataset)
        dump = open_dump(options)
        new = read_labels(dataset, dump, options)
        _refuse_other_content(dataset, new)
        comparison = Comparison.of(dataset, dump, new)
        source = (
            None
            if options.images is None
            else open_images(dataset, options.images, options.fetch, dump)
        )
        added = add_labels(dataset, new, source, parallel, options.make_default)
        labelled = Dataset.open(directory)
        diff = {} if comparison is None else comparison.report(labelled, new)
        if diff:
            write_json(dataset.directory / f"labels/{new.name}/{DIFF_FILE}", diff)
        rewritten = _rewrite(labelled, new, parallel) if options.rewrite else 0
        return Resharded(
            dataset=Dataset.open(directory),
            name=new.name,
            diff=diff,
            added=added,
            rewritten=rewritten,
            seconds=time.monotonic() - started,
        )


def _refuse_other_content(dataset: Dataset, new: NewLabels) -> None:
    """A label version is what it was made from; another dump needs another name."""
    old = dataset.manifest.labels.get(new.name)
    if old is None:
        return
    sources = {k: v for labels in new.splits.values() for k, v in labels.sources.items()}
    policy = {k: v for k, v in old.policy.items() if k != "strict"}
    if (old.sources, policy) != (sources, dict(new.policy)):
        raise InputError(
            f"labels {new.name!r} are there already, from other files or by another policy",
            file=dataset.directory / FILE,
            fix="give the new ones a --name of their own",
        )


def add_labels(
    dataset: Dataset,
    new: NewLabels,
    source: Source | None,
    parallel: ParallelMap,
    make_default: bool = False,
) -> int:
    """Publish a label version, with shards for those of its images that the source now has.

    Returns:
        The number of images added.
    """
    members = members_in(dataset)
    tables = {split: labels.table for split, labels in new.splits.items()}
    quarantine = _quarantine(dataset).merged(new.bad_rows)
    in_tars, before = carried(dataset.manifest), {part.shard.split for part in members}
    added = 0
    if source is not None:
        wanted_ids = without_pixels(tables, members)
        done = list(perform(tasks_for_images(dataset, wanted_ids, tables, source), parallel))
        for task, outcome in done:
            part = members_of(outcome, task.plan.image_ids_N)
            if part is not None:
                split = part.shard.split
                if split not in before:
                    in_tars[split] = new.name
                elif in_tars.get(split) != new.name:
                    in_tars.pop(split, None)
                members.append(part)
                added += part.shard.images
        tried = {split: format_image_ids(ids_N) for split, ids_N in wanted_ids.items()}
        failures = quarantine_of(outcome for _, outcome in done)
        quarantine = merged_failures(quarantine, tried, failures)
    default = new.name if make_default else dataset.manifest.default_labels
    splits = {part.shard.split for part in members}
    created_by = with_carried(dataset.manifest.created_by, in_tars, splits)
    publish(dataset, new, members, quarantine, created_by=created_by, default_labels=default)
    return added


def _rewrite(dataset: Dataset, new: NewLabels, parallel: ParallelMap) -> int:
    """Replace the tars by tars that carry the new labels; return how many."""
    in_tars = carried(dataset.manifest)
    members = members_in(dataset)
    splits = {part.shard.split for part in members}
    todo = [split for split in new.splits if split in splits and in_tars.get(split) != new.name]
    if not todo:
        return 0
    tables = {split: dataset.labels(split, new.name) for split in todo}
    done = list(perform(tasks_for_labels(dataset, members, tables), parallel))
    kept = [part for part in members if part.shard.split not in tables]
    for task, outcome in done:
        part = members_of(outcome, task.plan.image_ids_N)
        if part is None or outcome.failures:
            raise InputError(
                f"images of {task.source.name(task.plan.split, '*')} cannot be read",
                file=dataset.directory,
                fix=WITH_IMAGES,
            )
        kept.append(part)
    in_tars.update(dict.fromkeys(todo, new.name))
    created_by = with_carried(dataset.manifest.created_by, in_tars, splits)
    publish(dataset, new, kept, _quarantine(dataset), created_by=created_by)
    remove_superseded(Dataset.open(dataset.directory))
    return len(done)


def _quarantine(dataset: Dataset) -> Quarantine:
    return Quarantine.read(dataset.directory / QUARANTINE_FILE)
