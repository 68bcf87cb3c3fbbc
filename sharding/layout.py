"""Name every file, folder, split and ``created_by`` key of a dataset; parse names of shards."""

from __future__ import annotations

import re
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
LABELS_FOLDER = "labels"
WITHOUT_PIXELS = ".without_pixels"
"""Suffix of the label table of images that no tar holds yet. It sorts after the split's own table:
files are published in order, so that after a crash a row may be in both, never in none."""

UNFINISHED_FILE = "unfinished.json"
"""Identity of the command whose result the directory will be, until the manifest is written."""
STAGING_FOLDER = "staging"
"""Folder of a job's temporary files, which a continued job uses again."""

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
PLAN = "plan"
"""Key in ``created_by``: hash of everything that decided the content (`Job.digest`)."""
GROUPS_OF = "groups_of"
"""Key in ``created_by``: the splits that class groups were cut by, if that is not train."""
TAR_LABELS = "tar_labels"
"""Key in ``created_by``: the label version in the tars; by split where splits differ."""
SHARD_BYTES = "shard_bytes"
"""Key in ``created_by``: the bytes asked for, and the images per shard that they came to."""

_SHARD_FILE = re.compile(rf"(?:{IMAGES_FOLDER}/)?([a-z]+)-(\d{{6,}})(?:\.(?:tar|idx|json))?")


def shard_name(split: str, number: int) -> str:
    """Name a shard, such as "train-000123"."""
    return f"{split}-{number:06d}"


def parse_shard_name(path: str) -> tuple[str, int] | None:
    """Parse (split, number) out of a shard's name or of the path of its tar, index or record."""
    match = _SHARD_FILE.fullmatch(path)
    return None if match is None else (match[1], int(match[2]))


def labels_path(version: str, split: str) -> str:
    """Path of a label table, relative to the dataset."""
    return f"{LABELS_FOLDER}/{version}/{split}.parquet"


def wanted_path(version: str) -> str:
    """Path of a label version's list of images without pixels, relative to the dataset."""
    return f"{LABELS_FOLDER}/{version}/wanted.txt"


def diff_path(version: str) -> str:
    """Path of the report on what a label version changed, relative to the dataset."""
    return f"{LABELS_FOLDER}/{version}/diff.json"
