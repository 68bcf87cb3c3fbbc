"""What was set aside, told from other files: the quarantine from the records, and the reverse."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from sharding.atomic import write_json
from sharding.commit import members_in, quarantine_of
from sharding.errors import InputError
from sharding.extend import ids_of
from sharding.ids import format_image_ids, parse_image_ids
from sharding.manifest import Dataset, Manifest
from sharding.quarantine import FILE, HASH, Quarantine
from sharding.tasks import FOLDER, Failure, ShardOutcome, read_record, record_of


def known_failures(dataset: Dataset) -> Quarantine:
    """The images that records tell of and no tar holds.

    Raises:
        InputError: neither a label table nor the indexes say what the tars hold.
    """
    failures, members = _in_records(dataset.directory), members_in(dataset)
    for split in {part.shard.split for part in members}:
        failed_N = parse_image_ids(sorted(failures.image_ids(split)))
        held_N = failed_N[np.isin(failed_N, ids_of(split, members))]
        failures = failures.without_images(split, format_image_ids(held_N))
    return failures


def mend_quarantine(dataset: Dataset) -> Manifest:
    """Write the quarantine again from the records, with the rows that can still be read in it.

    The manifest goes on to know it by the number of its entries, so that rows which are lost are
    missed until the command that set them aside is repeated.
    """
    path = dataset.directory / FILE
    try:
        mended = known_failures(dataset).merged(_still_listed(path).rows())
    except InputError:
        return dataset.manifest
    digest = mended.write(path)
    whole = len(mended) == dataset.manifest.quarantined
    return dataset.manifest.saying(**{HASH: digest}) if whole else dataset.manifest


def mend_records(dataset: Dataset, paths: Collection[str]) -> None:
    """Write records of tars again, with the images set aside that no other record tells of.

    Which of several lost records told of an image is not known any more: the first one does.
    """
    told = {(entry.split, entry.image_id) for entry in _in_records(dataset.directory).entries}
    untold: dict[str, list[Failure]] = {}
    for entry in _still_listed(dataset.directory / FILE).images().entries:
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


def _in_records(directory: Path) -> Quarantine:
    """All images that records tell of; of one that failed twice, what the later record says."""
    found = {}
    for path in sorted((directory / FOLDER).glob("*.json")):
        record = read_record(path)
        for entry in quarantine_of([record] if record else []).entries:
            found[entry.split, entry.image_id] = entry
    return Quarantine(entries=tuple(found.values()))


def _still_listed(path: Path) -> Quarantine:
    try:
        return Quarantine.read(path)
    except InputError:
        return Quarantine()
