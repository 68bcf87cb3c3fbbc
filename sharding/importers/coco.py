"""Read MS COCO 2014: `annotations/instances_{train,val}2014.json` and the folders of images.

The official `val` is the test set of every single-positive paper. Classes are in the order of
their category ids; crowds count; images without any annotation are left out; images follow the
*text* of their ids, "100" before "99": all as in the published preprocessing of Cole et al. 2021.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import InputError
from sharding.importers.collection import Collection, Part, first_existing
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE

_PARTS = {"train": "train2014", "test": "val2014"}
_FIX = "unpack annotations_trainval2014.zip, train2014.zip and val2014.zip in one folder"
_FETCH = "fetch the annotations again"
_BULKY = ("segmentation", "bbox", "area", "captions", "coco_url", "flickr_url", "date_captured")


def read_coco(options: ImportOptions) -> Collection:
    """Read the annotations; see `sharding.importers.collection.Reader`."""
    source = options.source
    log = ReadLog(source, strict=options.strict)
    images = first_existing(
        [source / "train2014", source / "images/train2014"], "train2014", _FIX
    ).parent
    categories: list[tuple[int, str]] = []
    parts = {}
    for split, part in _PARTS.items():
        path = source / "annotations" / f"instances_{part}.json"
        content = _load(path, log)
        of_part = _categories(content, path)
        if categories and of_part != categories:
            raise InputError(
                "its categories are not those of instances_train2014.json", file=path, fix=_FETCH
            )
        categories = of_part
        parts[split] = _read_part(content, categories, split, path, log)
    return Collection(
        release="coco2014",
        keys=tuple(f"/m/coco_{number}" for number, _ in categories),
        class_names=tuple(name for _, name in categories),
        images=images,
        parts=parts,
        sources=log.sources,
        policy={"crowds": "count", "without_positive": "left out"},
    )


def _load(path: Path, log: ReadLog) -> dict[str, Any]:
    try:
        # Outlines are nine tenths of the file: dropped as soon as each annotation is parsed.
        content = json.loads(log.text(path), object_hook=_without_bulk)
    except ValueError as error:
        raise InputError(f"not JSON ({error})", file=path, fix=_FETCH) from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"there is no list of {key}", file=path, fix=_FETCH)
    return content


def _without_bulk(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in _BULKY}


def _categories(content: dict[str, Any], path: Path) -> list[tuple[int, str]]:
    """List (id, name) of the categories, ordered by id."""
    try:
        names = [(int(entry["id"]), str(entry["name"])) for entry in content["categories"]]
    except (KeyError, TypeError, ValueError):
        raise InputError("a category lacks id or name", file=path, fix=_FETCH) from None
    if not names or len(dict(names)) != len(names):
        raise InputError("no categories, or an id twice", file=path, fix=_FETCH)
    return sorted(names)


def _read_part(
    content: dict[str, Any],
    categories: list[tuple[int, str]],
    split: str,
    path: Path,
    log: ReadLog,
) -> Part:
    files = _files(content, split, path, log)
    index_of = {number: index for index, (number, _) in enumerate(categories)}
    present: dict[int, set[int]] = {}
    for row, entry in enumerate(content["annotations"], start=1):
        image, category = (
            entry.get(key) if isinstance(entry, dict) else None
            for key in ("image_id", "category_id")
        )
        if image not in files or category not in index_of:
            reason = f"unknown image or category: {image!r}, {category!r}"
            log.reject(split, path, row, reason, fix=_FETCH, image=str(image))
            continue
        present.setdefault(image, set()).add(index_of[category])
    log.count(split, "annotations", len(content["annotations"]))
    log.count(split, "without_positive", len(files) - len(present))
    kept = sorted(present, key=str)
    labels_NK = np.full((len(kept), len(categories)), NEGATIVE, np.int8)
    for row, image in enumerate(kept):
        labels_NK[row, list(present[image])] = POSITIVE
    return log.part(split, [f"{_PARTS[split]}/{files[image]}" for image in kept], labels_NK)


def _files(content: dict[str, Any], split: str, path: Path, log: ReadLog) -> dict[int, str]:
    """Read the file name of each image by its id."""
    files: dict[int, str] = {}
    for row, entry in enumerate(content["images"], start=1):
        if (
            isinstance(entry, dict)
            and isinstance(entry.get("id"), int)
            and isinstance(entry.get("file_name"), str)
        ):
            files[entry["id"]] = entry["file_name"]
        else:
            log.reject(split, path, row, f"image without id or file: {entry!r:.80}", fix=_FETCH)
    return files
