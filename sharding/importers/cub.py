"""Read CUB-200-2011 with its 312 attributes as classes.

`train_test_split.txt` is the split. An attribute is present or absent as written; the certainty
in the next column is ignored, as in the published preprocessing of Cole et al. 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharding.errors import InputError
from sharding.importers.collection import Collection, first_existing
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

_PARTS = {"1": "train", "0": "test"}
_STATES = {"1": POSITIVE, "0": NEGATIVE}
_FIX = "unpack CUB_200_2011.tgz and give the folder that it made"
_FETCH = "fetch the archive again"


def read_cub(options: ImportOptions) -> Collection:
    """Read the lists; see `sharding.importers.collection.Reader`."""
    folders = (".", "CUB_200_2011", "CUB_200_2011/CUB_200_2011")
    candidates = [options.source / folder / "images.txt" for folder in folders]
    images = first_existing(candidates, "images.txt", _FIX)
    root = images.parent
    log = ReadLog(options.source, strict=options.strict)
    attributes = _attributes(root, log)
    files = _files(images, log)
    split_of = _splits(root / "train_test_split.txt", files, log)
    labels_NK = _labels(root, attributes, files, split_of, log)
    parts = {}
    for split in _PARTS.values():
        is_chosen_N = np.array([split_of.get(image) == split for image in files], np.bool_)
        names = [name for image, name in files.items() if split_of.get(image) == split]
        parts[split] = log.part(split, names, labels_NK[is_chosen_N])
    return Collection(
        release="cub2011",
        keys=tuple(f"/m/cub_{number}" for number in attributes),
        class_names=tuple(attributes.values()),
        images=root / "images",
        parts=parts,
        sources=log.sources,
        policy={"certainty": "ignored"},
    )


def _attributes(root: Path, log: ReadLog) -> dict[str, str]:
    """Read the name of each attribute by its number, in file order."""
    # In the archive the list is outside the folder that holds everything else.
    folders = (root.parent, root, root / "attributes")
    candidates = [folder / "attributes.txt" for folder in folders]
    path = first_existing(candidates, "attributes.txt", _FIX)
    names: dict[str, str] = {}
    for row, cells in log.rows(path):
        if len(cells) != 2 or cells[0] in names:
            problem = f"{' '.join(cells)[:80]!r} is not a new attribute"
            raise InputError(problem, file=path, row=row, fix=_FETCH)
        names[cells[0]] = cells[1]
    return names


def _files(path: Path, log: ReadLog) -> dict[str, str]:
    """Read the file name of each image by its number, in file order."""
    files: dict[str, str] = {}
    for row, cells in log.rows(path):
        if len(cells) == 2 and cells[0] not in files:
            files[cells[0]] = cells[1]
        else:
            reason = f"not a new image and its file: {' '.join(cells)[:80]!r}"
            log.reject("train", path, row, reason, fix=_FETCH, image=cells[-1])
    return files


def _splits(path: Path, files: Mapping[str, str], log: ReadLog) -> dict[str, str]:
    """Read the split of each image by its number; an image without one is left out."""
    splits: dict[str, str] = {}
    for row, cells in log.rows(path):
        if len(cells) == 2 and cells[0] in files and cells[1] in _PARTS:
            splits[cells[0]] = _PARTS[cells[1]]
        else:
            reason = f"not an image, 1 or 0: {' '.join(cells)[:80]!r}"
            log.reject("train", path, row, reason, fix=_FETCH, image=cells[0])
    return splits


def _labels(
    root: Path,
    attributes: Mapping[str, str],
    files: Mapping[str, str],
    split_of: Mapping[str, str],
    log: ReadLog,
) -> npt.NDArray[np.int8]:
    """Read the labels (N, K) of all images, in the order of their list."""
    path = root / "attributes/image_attribute_labels.txt"
    row_of = {image: row for row, image in enumerate(files)}
    index_of = {number: index for index, number in enumerate(attributes)}
    labels_NK = np.full((len(files), len(attributes)), UNOBSERVED, np.int8)
    for line, cells in log.rows(path):
        # Some lines of the published file have a cell too many, behind those that matter.
        if len(cells) < 3 or cells[0] not in row_of or cells[2] not in _STATES:
            reason = f"not an image, an attribute, 1 or 0: {' '.join(cells)[:80]!r}"
        elif cells[1] not in index_of:
            reason = f"unknown attribute: {cells[1][:80]!r}"
        else:
            place = row_of[cells[0]], index_of[cells[1]]
            labels_NK[place] = max(labels_NK[place], _STATES[cells[2]])  # twice: a positive stays
            continue
        image, split = files.get(cells[0], cells[0]), split_of.get(cells[0], "train")
        log.reject(split, path, line, reason, fix=_FETCH, image=image)
    return labels_NK
