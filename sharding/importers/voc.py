"""Read PASCAL VOC 2012: `VOCdevkit/VOC2012` with `ImageSets/Main/<class>_{train,val}.txt`.

The official `val` is the test set of every single-positive paper. A flag of 1 is a positive; 0
("difficult" objects only) is a negative, and images without any positive are left out, both as in
the published preprocessing of Cole et al. 2021. `Annotations/` says the same and is not needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharding.importers.collection import Collection, Part, first_existing
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_PARTS = {"train": "train", "test": "val"}
_STATES = {"1": POSITIVE, "0": NEGATIVE, "-1": NEGATIVE}
_FIX = "unpack VOCtrainval_11-May-2012.tar and give the folder that holds VOCdevkit"


def read_voc(options: ImportOptions) -> Collection:
    """Read the image sets; see `sharding.importers.collection.Reader`."""
    folders = [options.source / path for path in ("VOCdevkit/VOC2012", "VOC2012", ".")]
    sets = first_existing(
        [folder / "ImageSets/Main" for folder in folders], "the folder of image sets", _FIX
    )
    log = ReadLog(options.source, strict=options.strict)
    return Collection(
        release="voc2012",
        keys=tuple(f"/m/voc_{name}" for name in CLASSES),
        class_names=CLASSES,
        images=first_existing([sets.parents[1] / "JPEGImages"], "the folder of images", _FIX),
        parts={split: _read_part(sets, split, log) for split in _PARTS},
        sources=log.sources,
        policy={"difficult": "negative", "without_positive": "left out"},
    )


def _read_part(sets: Path, split: str, log: ReadLog) -> Part:
    states: dict[str, list[int]] = {}
    for index, name in enumerate(CLASSES):
        path = sets / f"{name}_{_PARTS[split]}.txt"
        for row, cells in log.rows(path):
            if len(cells) != 2 or cells[1] not in _STATES:
                fix = "write an image and 1, 0 or -1, or fetch the file again"
                reason = f"bad flag: {' '.join(cells)[:80]!r}"
                log.reject(split, path, row, reason, fix=fix, image=cells[0])
                continue
            labels = states.setdefault(cells[0], [UNOBSERVED] * len(CLASSES))
            labels[index] = _STATES[cells[1]]
            log.count(split, "difficult_as_negative", cells[1] == "0")
    kept = sorted(image for image, labels in states.items() if POSITIVE in labels)
    log.count(split, "without_positive", len(states) - len(kept))
    labels_NK = np.array([states[image] for image in kept], np.int8).reshape(-1, len(CLASSES))
    return log.part(split, [f"{image}.jpg" for image in kept], labels_NK)
