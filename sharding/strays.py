"""Files beside tars and tables: records of shards, reports, and what the manifest does not name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharding.beside import BESIDE, CLASSES_FILE
from sharding.card import FILE as CARD_FILE
from sharding.commit import INFO_FILE
from sharding.manifest import FILE, Dataset
from sharding.problem import REPAIR, Problem
from sharding.quarantine import FILE as QUARANTINE_FILE
from sharding.tasks import FOLDER, record_of
from sharding.versions import APART, WANTED_FILE

OURS = re.compile(
    r"(?:.*\.tmp\..*|images/[a-z]+-\d{6}\.(?:tar|idx|json)|unfinished\.json|staging/\w+\.\w+"
    rf"|labels/[^/]+/[a-z]+{re.escape(APART)}\.parquet)"
)
"""Paths that only our jobs write: orphans of these may be removed."""


def check_records(dataset: Dataset) -> Iterator[Problem]:
    """Records of committed tars that are lost: they know which images were set aside."""
    for shard in dataset.manifest.shards:
        path = record_of(shard.path)
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
    named = {FILE, CLASSES_FILE, QUARANTINE_FILE, INFO_FILE, CARD_FILE}
    named |= {name for key, name in BESIDE.items() if key in dataset.manifest.created_by}
    for shard in dataset.manifest.shards:
        named |= {shard.path, shard.index, record_of(shard.path)}
    for name, version in dataset.manifest.labels.items():
        named |= {file.path for file in version.files}
        named |= {f"labels/{name}/{WANTED_FILE}", f"labels/{name}/diff.json"}
    for path in sorted(dataset.directory.rglob("*")):
        relative = path.relative_to(dataset.directory).as_posix()
        if path.is_dir() or relative in named:
            continue
        record = relative.startswith(f"{FOLDER}/") and relative.endswith(".json")
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
