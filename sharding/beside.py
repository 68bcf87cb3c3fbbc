"""Files that follow from the dump alone: the class list, how images are turned, names, authors.

Tars and tables are made by them, so that none of them may change unseen. The manifest knows their
hashes; the command that made a dataset writes them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sharding.attribution import FILE as ATTRIBUTION_FILE
from sharding.attribution import HASH as ATTRIBUTION_HASH
from sharding.files import changed
from sharding.importers.names import FILE as NAMES_FILE
from sharding.importers.names import HASH as NAMES_HASH
from sharding.manifest import Manifest
from sharding.rotation import FILE as ROTATIONS_FILE
from sharding.rotation import HASH as ROTATIONS_HASH

CLASSES_FILE = "classes.parquet"
CLASSES_HASH = "classes_file_sha256"

BESIDE = {
    CLASSES_HASH: CLASSES_FILE,
    ROTATIONS_HASH: ROTATIONS_FILE,
    NAMES_HASH: NAMES_FILE,
    ATTRIBUTION_HASH: ATTRIBUTION_FILE,
}
"""File by the key of its hash in the manifest's ``created_by``."""


def broken_beside(directory: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(file, what is wrong with it) of those that the manifest names."""
    for key, name in BESIDE.items():
        known = manifest.created_by.get(key)
        if known is not None and (wrong := changed(directory / name, known)) is not None:
            yield name, wrong
