"""CUB-200-2011 with its 312 attributes as classes.

`train_test_split.txt` is the split. An attribute is present or absent as written; the certainty
beside it is ignored, as in the published preprocessing of Cole et al. 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sharding.errors import InputError
from sharding.importers.collection import Collection, Part, existing
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

_PARTS = {"1": "train", "0": "test"}
_STATES = {"1": POSITIVE, "0": NEGATIVE}
_FIX = "unpack CUB_200_2011.tgz and give the folder that it made"
_FETCH = "fetch the archive again"


def read_cub(options: ImportOptions) -> Collection:
    """Read the lists; see `sharding.importers.collection.Reader`."""
    source = options.source
    below = (".", "CUB_200_2011", "CUB_200_2011/CUB_200_2011")
    listed = existing([source / p / "images.txt" for p in below], "images.txt", _FIX)
    root = listed.parent
    account = ReadLog(source, strict=options.strict)
    numbers, names = _attributes(root, account)
    rows = _images(listed, account)
    splits = _splits(root / "train_test_split.txt", rows, account)
    labels_NK = np.full((len(rows), len(numbers)), UNOBSERVED, np.int8)
    index_of = {number: index for index, number in enumerate(numbers)}
    row_of = {image: row for row, image in enumerate(rows)}
    path = root / "attributes/image_attribute_labels.txt"
    for line, cells in _cells(path, account):
        # Some lines of the published file have a cell too many, behind those that matter.
        if len(cells) < 3 or cells[0] not in row_of or cells[2] not in _STATES:
            reason = f"not an image, an attribute, 1 or 0: {' '.join(cells)[:80]!r}"
        elif cells[1] not in index_of:
            reason = f"unknown attribute: {cells[1][:80]!r}"
        else:
            labels_NK[row_of[cells[0]], index_of[cells[1]]] = _STATES[cells[2]]
            continue
        split = splits.get(cells[0], "train")
        image = rows.get(cells[0], cells[0])
        account.bad(split, path, line, reason, fix=_FETCH, image=image)
    return Collection(
        release="cub2011",
        keys=tuple(f"/m/cub_{number}" for number in numbers),
        class_names=names,
        images=root / "images",
        parts={split: _part(split, rows, splits, labels_NK, account) for split in _PARTS.values()},
        sources=account.sources,
        policy={"certainty": "ignored"},
    )


def _cells(path: Path, account: ReadLog) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(account.lines(path), start=1):
        if cells := line.split():
            yield number, cells


def _attributes(root: Path, account: ReadLog) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(numbers, names) of the attributes, in file order."""
    # The archive holds the list beside the folder of everything else.
    places = [
        root.parent / "attributes.txt",
        root / "attributes.txt",
        root / "attributes" / "attributes.txt",
    ]
    path = existing(places, "attributes.txt", _FIX)
    found: dict[str, str] = {}
    for row, cells in _cells(path, account):
        if len(cells) != 2 or cells[0] in found:
            raise InputError(
                f"{' '.join(cells)[:80]!r} is not a new attribute", file=path, row=row, fix=_FETCH
            )
        found[cells[0]] = cells[1]
    return tuple(found), tuple(found.values())


def _images(path: Path, account: ReadLog) -> dict[str, str]:
    """File name by image number, in file order."""
    found: dict[str, str] = {}
    for row, cells in _cells(path, account):
        if len(cells) != 2 or cells[0] in found:
            reason = f"not a new image and its file: {' '.join(cells)[:80]!r}"
            account.bad("train", path, row, reason, fix=_FETCH, image=cells[-1])
            continue
        found[cells[0]] = cells[1]
    return found


def _splits(path: Path, rows: dict[str, str], account: ReadLog) -> dict[str, str]:
    """Split by image number; an image without one is left out."""
    found: dict[str, str] = {}
    for row, cells in _cells(path, account):
        if len(cells) != 2 or cells[0] not in rows or cells[1] not in _PARTS:
            reason = f"not an image, 1 or 0: {' '.join(cells)[:80]!r}"
            account.bad("train", path, row, reason, fix=_FETCH, image=cells[0])
            continue
        found[cells[0]] = _PARTS[cells[1]]
    return found


def _part(
    split: str,
    rows: dict[str, str],
    splits: dict[str, str],
    labels_NK: np.ndarray,
    account: ReadLog,
) -> Part:
    chosen_N = np.array([splits.get(image) == split for image in rows], np.bool_)
    return Part(
        names=tuple(name for image, name in rows.items() if splits.get(image) == split),
        labels_NK=labels_NK[chosen_N],
        report=account.report(split),
        rejected_rows=account.rejected_rows(split),
    )
