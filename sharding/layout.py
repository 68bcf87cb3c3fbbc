"""Name every file, folder, split and ``created_by`` key of a dataset; parse names of shards."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
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
CROISSANT_FILE = "croissant.json"
ENERGON_FOLDER = ".nv-meta"
ENERGON_DATASET_FILE = f"{ENERGON_FOLDER}/dataset.yaml"
ENERGON_SPLIT_FILE = f"{ENERGON_FOLDER}/split.yaml"
ENERGON_INFO_FILE = f"{ENERGON_FOLDER}/.info.json"
DESCRIPTIONS = (CROISSANT_FILE, ENERGON_DATASET_FILE, ENERGON_SPLIT_FILE, ENERGON_INFO_FILE)
"""Files for other programs that follow from the manifest; a dataset of 0.1.0 has none of them."""
IMAGES_FOLDER = "images"
LABELS_FOLDER = "labels"
CONFIDENCES_FOLDER = "confidences"
LABELS_CARD_FILE = f"{LABELS_FOLDER}/{CARD_FILE}"
"""For Hugging Face's `datasets`; datasets of 0.1.0 and 0.2.0 have none."""
WITHOUT_PIXELS = ".without_pixels"
"""Suffix of the label table of images that no tar holds yet. It sorts after the split's own table:
files are published in order, so that after a crash a row may be in both, never in none."""

UNFINISHED_FILE = "unfinished.json"
"""Identity of the command whose result the directory will be, until the manifest is written."""
STAGING_FOLDER = "staging"
"""Folder of a job's temporary files, which a continued job uses again."""
LOCK_FILE = ".lock"
"""What a job locks while it works on the dataset; a killed one leaves it."""
TEMPORARY = ".tmp."
"""Between a file's name and the eight hexadecimal digits of the copy that will replace it."""
TEMPORARY_COPY = TEMPORARY + "[0-9a-f]" * 8
"""Glob of the end of such a copy's name."""
SET_ASIDE_FOLDER = "set_aside"
"""Where a repair moves tars that the manifest does not name, in a numbered folder for each move."""

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
FILES_OF_IMAGES = {key: name for key, name in SIDE_FILES.items() if key != CLASSES_HASH}
"""Those of them that have a row for an image."""
PLAN = "plan"
"""Key in ``created_by``: hash of everything that decided the content (`Job.digest`)."""
GROUPS_OF = "groups_of"
"""Key in ``created_by``: the splits that class groups were cut by, if that is not train."""
TAR_LABELS = "tar_labels"
"""Key in ``created_by``: the label version in the tars; by split where splits differ."""
DUPLICATES = "duplicates"
"""Key in ``created_by``: numbers of images with the bytes of another, where there are any; or
`UNCOUNTED`."""
UNCOUNTED = "null"
"""Instead of these numbers: nobody has counted since the dataset got its images or lost some."""
COMPARED_WITH = "compared_with"
"""Key in ``created_by``, by label version: the older one that its report compares it with."""
NEXT_NUMBER = "next_number"
"""Key in ``created_by``, by split: number of its next shard, where the last one was removed."""
UNFINISHED_REMOVAL = "unfinished_removal"
"""Key in ``created_by`` while the manifest names images as removed that tars may still hold."""
SHARD_BYTES = "shard_bytes"
"""Key in ``created_by``: the bytes asked for, and the images per shard that they came to."""

PREDICTIONS_PLAN, PREDICTIONS_DONE = "_plan.json", "_SUCCESS"
"""What `predict` writes first and last into its output."""

TAR, INDEX, RECORD = ".tar", ".idx", ".json"
"""Suffixes of a shard's files: the images, where DALI finds them, and what became of the shard."""
_SHARD_FILE = re.compile(
    rf"(?:{IMAGES_FOLDER}/)?({'|'.join(SPLITS)})-(\d{{6,}})({TAR}|{INDEX}|{RECORD})?", re.ASCII
)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
VERSION_NAMES = (
    "letters, digits, '.', '_' and '-', the first a letter or digit, at most 255, "
    f"and not {CARD_FILE}"
)
"""What a version may be called: its folder is beside `LABELS_CARD_FILE`."""
_LEFT_OVER = re.compile(
    rf".*{TEMPORARY_COPY.replace('.', '[.]')}|{UNFINISHED_FILE}"
    rf"|{IMAGES_FOLDER}/(?:{'|'.join(SPLITS)})-\d{{6,}}{INDEX}"
    rf"|{STAGING_FOLDER}/(?:[0-9a-f]{{16}}[.](?:spool|npz)|confidences_[a-z]+_\d{{6,}}[.]rows)"
    rf"|{LABELS_FOLDER}/(?P<version>[^/]+)/[a-z]+{WITHOUT_PIXELS}\.parquet"
)
_ENERGON_INDEX = (
    rf"{IMAGES_FOLDER}/(?:{'|'.join(SPLITS)})-\d{{6,}}{TAR}{INDEX}"
    rf"|{re.escape(ENERGON_FOLDER)}/index[.](?:sqlite|uuid)"
)
_HUB = re.compile(r"[.]gitattributes|[.]cache/huggingface/.+(?<![.]incomplete)")


def shard_name(split: str, number: int) -> str:
    """Name a shard, such as "train-000123"."""
    return f"{split}-{number:06d}"


def shard_path(name: str, suffix: str = TAR) -> str:
    """Path of a shard's tar, index or record, relative to the dataset."""
    return f"{IMAGES_FOLDER}/{name}{suffix}"


def parse_shard_name(path: str) -> tuple[str, int] | None:
    """Parse (split, number) out of a shard's name or of the path of its tar, index or record."""
    match = _SHARD_FILE.fullmatch(path)
    return None if match is None else (match[1], int(match[2]))


def are_shard_paths(split: str, tar: str, index: str) -> bool:
    """Tell whether these can be the tar and the index of a shard: a manifest may be anybody's."""
    parsed = parse_shard_name(tar)
    if parsed is None or parsed[0] != split:
        return False
    name = shard_name(*parsed)
    return (tar, index) == (shard_path(name), shard_path(name, INDEX))


def are_label_paths(version: str, split: str, tables: Sequence[str]) -> bool:
    """Tell whether these can be a split's table and, if there is one, that of other images."""
    expected = [labels_path(version, split), labels_path(version, f"{split}{WITHOUT_PIXELS}")]
    is_named = is_version_name(version) and split in SPLITS
    return is_named and list(tables) == expected[: len(tables)]


def is_left_over(path: str, versions: Container[str]) -> bool:
    """Tell a file of a killed or replaced job from others, in a dataset of these label versions."""
    match = _LEFT_OVER.fullmatch(path)
    return match is not None and (match["version"] is None or match["version"] in versions)


def is_energon_index(path: str) -> bool:
    """Tell what `energon prepare` adds to a dataset from other files."""
    return re.fullmatch(_ENERGON_INDEX, path) is not None


def is_hub_file(path: str) -> bool:
    """Tell what Hugging Face's hub and its downloads add to a dataset from other files.

    Not a download that was cut off, which may hold images.
    """
    return _HUB.fullmatch(path) is not None


def is_version_name(name: str) -> bool:
    """Tell whether a label version may have this name, which names a folder of the dataset."""
    # Some file systems do not tell readme.md from README.md.
    return _VERSION.fullmatch(name) is not None and name.casefold() != CARD_FILE.casefold()


def is_below(path: str) -> bool:
    """Tell whether a path with forward slashes stays below the folder that it is relative to."""
    return bool(path) and "\0" not in path and path[0] != "/" and ".." not in path.split("/")


def labels_path(version: str, split: str) -> str:
    """Path of a label table, relative to the dataset."""
    return f"{LABELS_FOLDER}/{version}/{split}.parquet"


def confidences_path(version: str, split: str) -> str:
    """Path of a table of confidences, relative to the dataset."""
    return f"{CONFIDENCES_FOLDER}/{version}/{split}.parquet"


def wanted_path(version: str) -> str:
    """Path of a label version's list of images without pixels, relative to the dataset."""
    return f"{LABELS_FOLDER}/{version}/wanted.txt"


def diff_path(version: str) -> str:
    """Path of the report on what a label version changed, relative to the dataset."""
    return f"{LABELS_FOLDER}/{version}/diff.json"
