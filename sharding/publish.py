"""Making a change of a finished dataset count: every table first, the manifest last."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sharding.atomic import together
from sharding.card import write_card
from sharding.commit import Members, NewLabels, write_info
from sharding.manifest import Dataset, Manifest
from sharding.quarantine import FILE as QUARANTINE_FILE
from sharding.quarantine import HASH as QUARANTINE_HASH
from sharding.quarantine import Quarantine
from sharding.versions import label_version, rearranged, remove_settled


def publish(
    dataset: Dataset,
    new: NewLabels,
    members: Sequence[Members],
    quarantine: Quarantine,
    **changes: Any,
) -> None:
    """Write a label version over the tars named; bring the others along if the tars changed.

    Args:
        dataset: as it is.
        new: the label version to write or replace.
        members: all tars that shall count from now on.
        quarantine: the whole table.
        changes: further fields of the manifest.
    """
    directory, manifest = dataset.directory, dataset.manifest
    shards = tuple(sorted((part.shard for part in members), key=lambda shard: shard.path))
    with together():
        version = label_version(directory, new, members)
        others = {name: old for name, old in manifest.labels.items() if name != new.name}
        if shards != manifest.shards:
            others = {name: rearranged(dataset, name, members) for name in others}
        digest = quarantine.write(directory / QUARANTINE_FILE)
        write_info(directory, manifest.name, shards)
        changed: Manifest = dataclasses.replace(
            manifest,
            labels={**others, new.name: version},
            shards=shards,
            quarantined=len(quarantine),
            **changes,
        )
        changed = changed.saying(**{QUARANTINE_HASH: digest})
        write_card(directory, changed, dataset.classes)
        changed.write(directory)
    remove_settled(directory, changed)


def merged_failures(
    old: Quarantine, tried: Mapping[str, Sequence[str]], failures: Quarantine
) -> Quarantine:
    """The table after images were tried again: recovered ones are gone, reasons are fresh."""
    for split, image_ids in tried.items():
        old = old.without_images(split, image_ids)
    return old.merged(failures)
