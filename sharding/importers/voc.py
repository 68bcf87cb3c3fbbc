"""Read PASCAL VOC 2012 or 2007: `VOCdevkit/VOC<year>` with `ImageSets/Main/<class>_<part>.txt`.

The parts of 2012 are `train` and `val`: the official `val` is the test set of every single-positive
paper. Those of 2007 are `trainval` and `test`, where the source has the latter. A flag of 1 is a
positive; 0 ("difficult" objects only) is a negative, as in the published preprocessing of Cole et
al. 2021, which leaves out images without any positive. `Annotations/` is not needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharding.errors import InputError
from sharding.importers.collection import (
    LEFT_OUT,
    WITHOUT_POSITIVE,
    Collection,
    Part,
    choose_year,
    first_existing,
)
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_YEARS = (2012, 2007)
_STATES = {"1": POSITIVE, "0": NEGATIVE, "-1": NEGATIVE}
_FIX = "unpack VOCtrainval_11-May-2012.tar and give the folder that holds VOCdevkit"


def read_voc(options: ImportOptions) -> Collection:
    """Read the image sets; see `sharding.importers.collection.Reader`."""
    folder, year = _find(options)
    sets = first_existing([folder / "ImageSets/Main"], "the folder of image sets", _FIX)
    parts = {"train": "train", "test": "val"}
    if year == 2007 and (sets / f"{CLASSES[0]}_test.txt").exists():
        parts = {"train": "trainval", "test": "test"}
    log = ReadLog(options.source, strict=options.strict)
    return Collection(
        release=f"voc{year}",
        keys=tuple(f"/m/voc_{name}" for name in CLASSES),
        class_names=CLASSES,
        images=first_existing([folder / "JPEGImages"], "the folder of images", _FIX),
        parts={split: _read_part(sets, split, part, log) for split, part in parts.items()},
        sources=log.sources,
        policy={"difficult": "negative", WITHOUT_POSITIVE: LEFT_OUT},
    )


def _find(options: ImportOptions) -> tuple[Path, int]:
    """Find the folder of the image sets, and its year."""
    source = options.source
    if (source / "ImageSets").is_dir():  # the folder of a year itself
        named = [year for year in _YEARS if str(year) in source.resolve().name]
        if named and options.year not in (None, *named):
            fix = f"leave out --year, or give the folder of {options.year}"
            raise InputError(f"this is VOC{named[0]}, not VOC{options.year}", file=source, fix=fix)
        return source, options.year or (named or [*_YEARS])[0]
    folders = [source / "VOCdevkit", source]
    root = next((folder for folder in folders if any(folder.glob("VOC2*"))), folders[0])
    by_year = {year: root / f"VOC{year}" for year in _YEARS}
    year = choose_year(by_year, options.year)
    return by_year.get(year, root / f"VOC{year}"), year


def _read_part(sets: Path, split: str, part: str, log: ReadLog) -> Part:
    states: dict[str, list[int]] = {}
    for index, name in enumerate(CLASSES):
        path = sets / f"{name}_{part}.txt"
        for row, cells in log.rows(path):
            if len(cells) != 2 or cells[1] not in _STATES:
                fix = "write an image and 1, 0 or -1, or fetch the file again"
                reason = f"bad flag: {' '.join(cells)[:80]!r}"
                log.reject(split, path, row, reason, fix=fix, image=cells[0])
                continue
            labels = states.setdefault(cells[0], [UNOBSERVED] * len(CLASSES))
            labels[index] = max(labels[index], _STATES[cells[1]])  # twice: a positive stays
            log.count(split, "difficult_as_negative", cells[1] == "0")
    images = sorted(states)
    labels_NK = np.array([states[image] for image in images], np.int8).reshape(-1, len(CLASSES))
    return log.part(split, [f"{image}.jpg" for image in images], labels_NK)
