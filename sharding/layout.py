"""Name every file, folder, split and ``created_by`` key of a dataset in one place."""

from __future__ import annotations

from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

MANIFEST_FILE = "dataset.json"
CLASSES_FILE = "classes.parquet"
QUARANTINE_FILE = "quarantine.parquet"
ROTATIONS_FILE = "rotations.parquet"
NAMES_FILE = "names.parquet"
ATTRIBUTION_FILE = "attribution.parquet"
CARD_FILE = "README.md"
INFO_FILE = "_info.json"
IMAGES_FOLDER = "images"
WANTED_FILE = "wanted.txt"
"""Of a label version: ids of the labelled images that no tar holds yet."""
DIFF_FILE = "diff.json"
"""Of a label version: what it changed."""
WITHOUT_PIXELS = ".without_pixels"
"""Suffix of the table of the labelled images that no tar holds yet."""

UNFINISHED_FILE = "unfinished.json"
"""Identity of the command whose result the directory will be, until the manifest is written."""
STAGING_FOLDER = "staging"
"""Folder of what a job needs meanwhile; a continued job finds it there."""

CLASSES_HASH = "classes_file_sha256"
QUARANTINE_HASH = "quarantine_file_sha256"
ROTATIONS_HASH = "rotations_file_sha256"
NAMES_HASH = "names_file_sha256"
ATTRIBUTION_HASH = "attribution_file_sha256"
SIDE_FILES = {
    CLASSES_HASH: CLASSES_FILE,
    ROTATIONS_HASH: ROTATIONS_FILE,
    NAMES_HASH: NAMES_FILE,
    ATTRIBUTION_HASH: ATTRIBUTION_FILE,
}
"""Files that follow from the dump alone, by the key of their hash in ``created_by``."""
GROUPS_OF = "groups_of"
"""Key in ``created_by``: the splits that class groups were cut by, if that is not train."""
TAR_LABELS = "tar_labels"
"""Key in ``created_by``: the label version that the tars of each split carry."""
SHARD_BYTES = "shard_bytes"
"""Key in ``created_by``: the bytes asked for, and the images per shard that they came to."""

REPAIR = "repeat this command with --repair"
REPAIR_WITH_IMAGES = "repeat this command with --repair --images and the folder of the images"


def record_path(tar: str) -> str:
    """Path of the record of a tar, both relative to the dataset."""
    return f"{tar.removesuffix('.tar')}.json"
