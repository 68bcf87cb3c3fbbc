"""Which labels the tars carry: a version per split, as long as all tars of the split carry it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sharding.manifest import Manifest

TAR_LABELS = "tar_labels"
"""Key in the manifest's ``created_by``: the version that all tars carry. Where the splits differ
there is a key ``tar_labels/<split>`` for each instead, and none for a split of several versions."""


def carried(manifest: Manifest) -> dict[str, str]:
    """Label version by split, without the splits whose tars carry several."""
    said, found = manifest.created_by, {}
    for split in dict.fromkeys(shard.split for shard in manifest.shards):
        able = [name for name, version in manifest.labels.items() if split in version.splits]
        name = said.get(f"{TAR_LABELS}/{split}", said.get(TAR_LABELS))
        if name not in able and len(able) == 1:
            name = able[0]  # no other labels can be in there
        if name in able:
            found[split] = name
    return found


def with_carried(
    created_by: Mapping[str, str], by_split: Mapping[str, str], splits: Collection[str]
) -> dict[str, str]:
    """A manifest's ``created_by`` that says what the tars of these splits carry."""
    names = {by_split.get(split, "") for split in splits}
    if len(names) == 1 and "" not in names:
        keys = {TAR_LABELS: names.pop()}
    else:
        keys = {f"{TAR_LABELS}/{split}": by_split[split] for split in splits if split in by_split}
    rest = {k: v for k, v in created_by.items() if k.partition("/")[0] != TAR_LABELS}
    return {**rest, **keys}
