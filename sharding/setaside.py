"""What was set aside, told from other files: the quarantine from the records, and the reverse."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from sharding.atomic import write_json
from sharding.commit import Members, members_in, quarantine_of
from sharding.errors import InputError
from sharding.extend import ids_of
from sharding.ids import format_image_ids, parse_image_ids
from sharding.manifest import Dataset, Manifest
from sharding.quarantine import FILE, HASH, Quarantine
from sharding.tasks import FOLDER, Failure, ShardOutcome, read_record, record_of


def all_failures(directory: Path) -> Quarantine:
    """The images that records tell of; of one that failed twice, what the later record says."""
    found = {}
    for path in sorted((directory / FOLDER).glob("*.json")):
        record = read_record(path)
        for entry in quarantine_of([record] if record else []).entries:
            found[entry.split, entry.image_id] = entry
    return Quarantine(entries=tuple(found.values()))


def known_failures(directory: Path, members: Sequence[Members]) -> Quarantine:
    """The images that records tell of and no tar holds."""
    failures = all_failures(directory)
    for split in {part.shard.split for part in members}:
        failed_N = parse_image_ids(sorted(failures.image_ids(split)))
        held_N = failed_N[np.isin(failed_N, ids_of(split, members))]
        failures = failures.without_images(split, format_image_ids(held_N))
    return failures


def still_listed(directory: Path) -> Quarantine:
    """The table as it is there; empty where it cannot be read."""
    try:
        return Quarantine.read(directory / FILE)
    except InputError:
        return Quarantine()


def mend_quarantine(dataset: Dataset) -> Manifest:
    """Write the quarantine again from the records, with the rows that can still be read in it.

    The manifest goes on to know it by the number of its entries, so that rows which are lost are
    missed until the command that set them aside is repeated.
    """
    directory = dataset.directory
    try:
        failures = known_failures(directory, members_in(dataset))
    except InputError:
        return dataset.manifest  # nothing says what the tars hold
    mended = failures.merged(still_listed(directory).rows())
    digest = mended.write(directory / FILE)
    whole = len(mended) == dataset.manifest.quarantined
    return dataset.manifest.saying(**{HASH: digest}) if whole else dataset.manifest


def mend_records(dataset: Dataset, paths: Collection[str]) -> None:
    """Write records of tars again, with the images set aside that no other record tells of.

    Which of several lost records told of an image is not known any more: the first one does.
    """
    told = {(entry.split, entry.image_id) for entry in all_failures(dataset.directory).entries}
    untold: dict[str, list[Failure]] = {}
    for entry in still_listed(dataset.directory).images().entries:
        if (entry.split, entry.image_id) not in told:
            failure = Failure(image_id=entry.image_id, source=entry.source, reason=entry.reason)
            untold.setdefault(entry.split, []).append(failure)
    for shard in dataset.manifest.shards:
        if record_of(shard.path) in paths:
            record = ShardOutcome(
                name=Path(shard.path).stem,
                shard=shard,
                fingerprint="",
                failures=tuple(untold.pop(shard.split, ())),
            )
            write_json(dataset.directory / record_of(shard.path), record.to_json())
