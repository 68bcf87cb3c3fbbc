"""Read NUS-WIDE with its 81 concepts: `Flickr/`, `ImageList/`, `Groundtruth/TrainTestLabels/`.

The single-positive papers use lists of their own (150,000 training and 60,260 test images), which
they publish as `formatted_{train,val}_{images,labels}.npy`; they are used where the source holds
them. Otherwise it is the official split, without the images that show none of the concepts.
"""

from __future__ import annotations

import io
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from sharding.errors import InputError
from sharding.importers.collection import (
    LEFT_OUT,
    WITHOUT_POSITIVE,
    Collection,
    Part,
    class_key,
    first_existing,
)
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.log import first_line

_CONCEPTS = 81
_PARTS = {"train": ("Train", "train"), "test": ("Test", "val")}
_FIX = "unpack Flickr.zip, ImageList.zip and Groundtruth.zip in one folder"
_NO_ARRAY = (
    *(ValueError, EOFError, TypeError, AttributeError, OverflowError, MemoryError),
    *(TokenError, BadZipFile),
)
_PAPERS = "fetch the papers' formatted_*.npy again, or remove them for the official split"


def read_nuswide(options: ImportOptions) -> Collection:
    """Read the lists; see `sharding.importers.collection.Reader`."""
    source = options.source
    images = first_existing([source / "Flickr", source / "images"], "the folder of images", _FIX)
    log = ReadLog(source, strict=options.strict)
    of_papers = (source / "formatted_train_images.npy").exists()
    concepts = _concepts(source, log, required=not of_papers)
    read_part = _read_papers_part if of_papers else _read_official_part
    return Collection(
        release="nuswide",
        keys=tuple(class_key("nuswide", concept) for concept in concepts),
        class_names=concepts,
        images=images,
        parts={split: read_part(source, split, concepts, log) for split in _PARTS},
        sources=log.sources,
        policy={
            "lists": "papers" if of_papers else "official",
            WITHOUT_POSITIVE: "kept" if of_papers else LEFT_OUT,
        },
    )


def _concepts(source: Path, log: ReadLog, *, required: bool) -> tuple[str, ...]:
    """Read the official list, or the names of the label files; both are in alphabetical order."""
    listed = [source / folder / "Concepts81.txt" for folder in ("ConceptsList", ".")]
    if path := next((path for path in listed if path.exists()), None):
        concepts = tuple(line for line in log.lines(path) if line)
    else:
        files = (source / "Groundtruth/TrainTestLabels").glob("Labels_*_Train.txt")
        concepts = tuple(sorted(f.name[len("Labels_") : -len("_Train.txt")] for f in files))
        path = source / "Groundtruth/TrainTestLabels"
    if not concepts and not required:
        return tuple(f"concept_{number}" for number in range(_CONCEPTS))
    if not concepts or len(set(concepts)) != len(concepts) or "/" in "".join(concepts):
        raise InputError(
            "no concepts, one twice, or one that cannot be in a file's name", file=path, fix=_FIX
        )
    return concepts


def _read_official_part(source: Path, split: str, concepts: tuple[str, ...], log: ReadLog) -> Part:
    part, _ = _PARTS[split]
    lines = log.lines(source / "ImageList" / f"{part}Imagelist.txt")
    names = [line.replace("\\", "/") for line in lines if line]
    labels_NK = np.full((len(names), len(concepts)), UNOBSERVED, np.int8)
    for index, concept in enumerate(concepts):
        path = source / "Groundtruth/TrainTestLabels" / f"Labels_{concept}_{part}.txt"
        labels_NK[:, index] = _read_column(path, names, split, log)
    return log.part(split, names, labels_NK)


def _read_column(path: Path, names: list[str], split: str, log: ReadLog) -> npt.NDArray[np.int8]:
    """Read the states (N,) of one concept, a line per image."""
    lines = log.lines(path)
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) != len(names):
        raise InputError(
            f"{len(lines)} lines for {len(names)} images of the image list", file=path, fix=_FIX
        )
    states_N = np.full(len(lines), UNOBSERVED, np.int8)
    for row, line in enumerate(lines):
        if line in ("0", "1"):
            states_N[row] = POSITIVE if line == "1" else NEGATIVE
        else:
            reason = f"neither 0 nor 1: {line[:80]!r}"
            log.reject(split, path, row + 1, reason, fix="fetch the file again", image=names[row])
    return states_N


def _read_papers_part(source: Path, split: str, concepts: tuple[str, ...], log: ReadLog) -> Part:
    _, part = _PARTS[split]
    names_N = _read_array(source / f"formatted_{part}_images.npy", log)
    path = source / f"formatted_{part}_labels.npy"
    values_NK = _read_array(path, log)
    shapes = ((names_N.size,), (names_N.size, len(concepts)))
    if (names_N.shape, values_NK.shape) != shapes or not np.isin(values_NK, (0, 1)).all():
        raise InputError(
            f"not a table of 0 and 1 for {names_N.size} images and {len(concepts)} concepts",
            file=path,
            fix=_PAPERS,
        )
    log.count(split, WITHOUT_POSITIVE, int(np.count_nonzero(~values_NK.any(axis=1))))
    names = [str(name).replace("\\", "/").lstrip("/") for name in names_N.tolist()]
    return log.part(split, names, np.where(values_NK == 1, POSITIVE, NEGATIVE).astype(np.int8))


def _read_array(path: Path, log: ReadLog) -> npt.NDArray:
    try:
        array = np.load(io.BytesIO(log.read(path)), allow_pickle=False)
        return np.asarray(array.view())  # an archive of arrays has none
    except _NO_ARRAY as error:
        raise InputError(f"not an array ({first_line(error)})", file=path, fix=_PAPERS) from None
