"""Read MS COCO 2014 or 2017: `annotations/instances_{train,val}<year>.json`, and the images.

The official `val` is the test set of every single-positive paper. Classes are in the order of
their category ids; crowds count; images follow the *text* of their ids, "100" before "99": all as
in the published preprocessing of Cole et al. 2021, which leaves out images without any annotation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import InputError
from sharding.importers.collection import (
    LEFT_OUT,
    WITHOUT_POSITIVE,
    Collection,
    Part,
    choose_year,
    class_key,
    first_existing,
    is_text,
)
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

_PARTS = {"train": "train", "test": "val"}
_YEARS = (2014, 2017)
_FETCH = "fetch the annotations again"
_BULKY = ("segmentation", "bbox", "area", "captions", "coco_url", "flickr_url", "date_captured")


def read_coco(options: ImportOptions) -> Collection:
    """Read the annotations; see `sharding.importers.collection.Reader`."""
    source = options.source
    log = ReadLog(source, strict=options.strict)
    name = "annotations/instances_{}{}.json"
    files = {year: source / name.format("train", year) for year in _YEARS}
    year = choose_year(files, options.year)
    first = f"train{year}"
    fix = f"unpack annotations_trainval{year}.zip, {first}.zip and val{year}.zip in one folder"
    images = first_existing([source / first, source / "images" / first], first, fix).parent
    categories: list[tuple[int | str, str]] = []
    parts = {}
    for split, part in _PARTS.items():
        path = source / name.format(part, year)
        content = _load(path, log)
        of_part = _categories(content, path)
        if categories and of_part != categories:
            problem = f"its categories are not those of instances_{first}.json"
            raise InputError(problem, file=path, fix=_FETCH)
        categories = of_part
        parts[split] = _read_part(content, categories, split, f"{part}{year}", path, log)
    return Collection(
        release=f"coco{year}",
        keys=tuple(class_key("coco", str(number)) for number, _ in categories),
        class_names=tuple(name for _, name in categories),
        images=images,
        parts=parts,
        sources=log.sources,
        policy={"crowds": "count", WITHOUT_POSITIVE: LEFT_OUT},
    )


def _load(path: Path, log: ReadLog) -> dict[str, Any]:
    try:
        # Outlines are nine tenths of the file: dropped as soon as each annotation is parsed.
        content = json.loads(log.text(path), object_hook=_without_bulk)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})", file=path, fix=_FETCH) from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"there is no list of {key}", file=path, fix=_FETCH)
    return content


def _without_bulk(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in _BULKY}


def _id_of(entry: Any, key: str, *, padded: bool) -> int | str | None:
    """Read an id; some tools write numbers as text or with a decimal point. None if it is none.

    Args:
        entry: an image, an annotation or a category.
        key: name of the id in it.
        padded: text with zeros before a number is that number too.
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value) if padded or str(int(value)) == value else value
    is_id = isinstance(value, int) and not isinstance(value, bool)
    return value if is_id or (is_text(value) and value) else None


def _are_padded(entries: list[Any]) -> bool:
    """Test whether ids are padded with zeros: no two differ by nothing else, as "1" and "01" do."""
    exact, numbers = ({_id_of(e, "id", padded=p) for e in entries} for p in (False, True))
    return len(exact) == len(numbers)


def _categories(content: dict[str, Any], path: Path) -> list[tuple[int | str, str]]:
    """List (id, name) of the categories, ordered by id."""
    names: list[tuple[int | str, str]] = []
    padded = _are_padded(content["categories"])
    for entry in content["categories"]:
        number = _id_of(entry, "id", padded=padded)
        if number is None or not is_text(entry.get("name")):
            raise InputError("a category lacks id or name", file=path, fix=_FETCH)
        names.append((number, entry["name"]))
    if not names or len(dict(names)) != len(names):
        raise InputError("no categories, or an id twice", file=path, fix=_FETCH)
    return sorted(names, key=lambda pair: (isinstance(pair[0], str), pair[0]))


def _read_part(
    content: dict[str, Any],
    categories: list[tuple[int | str, str]],
    split: str,
    folder: str,
    path: Path,
    log: ReadLog,
) -> Part:
    of_images, of_classes = (_are_padded(content[key]) for key in ("images", "categories"))
    files = _files(content, split, path, log, padded=of_images)
    index_of = {number: index for index, (number, _) in enumerate(categories)}
    present: dict[int | str, set[int]] = {}
    doubtful = set()  # of which an annotation cannot be read, whatever it says is there
    for row, entry in enumerate(content["annotations"], start=1):
        image = _id_of(entry, "image_id", padded=of_images)
        category = _id_of(entry, "category_id", padded=of_classes)
        if category is None:
            doubtful.add(image)
        if image is None or image not in files or category not in index_of:
            reason = f"unknown image or category: {entry!a:.80}"
            log.reject(split, path, row, reason, fix=_FETCH, image=ascii(image))
            continue
        present.setdefault(image, set()).add(index_of[category])
    log.count(split, "annotations", len(content["annotations"]))
    images = sorted(files, key=str)
    labels_NK = np.full((len(images), len(categories)), NEGATIVE, np.int8)
    for row, image in enumerate(images):
        if image in doubtful:
            labels_NK[row] = UNOBSERVED
        labels_NK[row, list(present.get(image, ()))] = POSITIVE
    return log.part(split, [f"{folder}/{files[image]}" for image in images], labels_NK)


def _files(
    content: dict[str, Any], split: str, path: Path, log: ReadLog, *, padded: bool
) -> dict[int | str, str]:
    """Read the file name of each image by its id; an id of two files is of none."""
    files: dict[int | str, str] = {}
    shared = set()
    for row, entry in enumerate(content["images"], start=1):
        image = _id_of(entry, "id", padded=padded)
        if image is None or not is_text(entry.get("file_name")):
            log.reject(split, path, row, f"image without id or file: {entry!a:.80}", fix=_FETCH)
        elif files.setdefault(image, entry["file_name"]) != entry["file_name"]:
            reason = f"the id of another file: {entry!a:.80}"
            log.reject(split, path, row, reason, fix=_FETCH, image=str(image))
            shared.add(image)
    return {image: name for image, name in files.items() if image not in shared}
