"""NUS-WIDE with 81 concepts: `Flickr/`, `ImageList/`, `Groundtruth/TrainTestLabels/`.

The single-positive papers use lists of their own (150,000 training and 60,260 test images), which
they publish as `formatted_{train,val}_{images,labels}.npy`; where these lie in the source they are
taken. Otherwise it is the official split, without the images that show none of the concepts.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharding.errors import InputError
from sharding.importers.collection import Collection, Part, class_key, existing
from sharding.importers.options import ImportOptions
from sharding.importers.read_log import ReadLog
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

_CONCEPTS = 81
_PARTS = {"train": ("Train", "train"), "test": ("Test", "val")}
_FIX = "unpack Flickr.zip, ImageList.zip and Groundtruth.zip in one folder"
_PAPERS = "fetch the papers' formatted_*.npy again, or remove them for the official split"


def read_nuswide(options: ImportOptions) -> Collection:
    """Read the lists; see `sharding.importers.collection.Reader`."""
    source = options.source
    images = existing([source / "Flickr", source / "images"], "the folder of images", _FIX)
    account = ReadLog(source, strict=options.strict)
    ours = (source / "formatted_train_images.npy").exists()
    concepts = _concepts(source, account, required=not ours)
    read = _papers_part if ours else _official_part
    return Collection(
        release="nuswide",
        keys=tuple(class_key("nuswide", concept) for concept in concepts),
        class_names=concepts,
        images=images,
        parts={split: read(source, split, concepts, account) for split in _PARTS},
        sources=account.sources,
        policy={
            "lists": "papers" if ours else "official",
            "without_positive": "kept" if ours else "left out",
        },
    )


def _concepts(source: Path, account: ReadLog, *, required: bool) -> tuple[str, ...]:
    """The official list, or the names of the label files: both are in the order of the alphabet."""
    listed = [source / folder / "Concepts81.txt" for folder in ("ConceptsList", ".")]
    if path := next((path for path in listed if path.exists()), None):
        concepts = tuple(line.strip() for line in account.lines(path) if line.strip())
    else:
        files = (source / "Groundtruth/TrainTestLabels").glob("Labels_*_Train.txt")
        concepts = tuple(sorted(f.name[len("Labels_") : -len("_Train.txt")] for f in files))
        path = source / "Groundtruth/TrainTestLabels"
    if not concepts and not required:
        return tuple(f"concept_{number}" for number in range(_CONCEPTS))
    if not concepts or len(set(concepts)) != len(concepts):
        raise InputError("no concepts, or one twice", file=path, fix=_FIX)
    return concepts


def _official_part(source: Path, split: str, concepts: tuple[str, ...], account: ReadLog) -> Part:
    part, _ = _PARTS[split]
    lines = account.lines(source / "ImageList" / f"{part}Imagelist.txt")
    names = [line.strip().replace("\\", "/") for line in lines if line.strip()]
    labels_NK = np.full((len(names), len(concepts)), UNOBSERVED, np.int8)
    for index, concept in enumerate(concepts):
        path = source / "Groundtruth/TrainTestLabels" / f"Labels_{concept}_{part}.txt"
        labels_NK[:, index] = _column(path, names, split, account)
    kept_N = (labels_NK == POSITIVE).any(axis=1)
    account.count(split, "without_positive", int(np.count_nonzero(~kept_N)))
    return Part(
        names=tuple(name for name, kept in zip(names, kept_N, strict=True) if kept),
        labels_NK=labels_NK[kept_N],
        report=account.report(split),
        rejected_rows=account.rejected_rows(split),
    )


def _column(path: Path, names: list[str], split: str, account: ReadLog) -> npt.NDArray[np.int8]:
    """States (N,) of one concept, a line per image."""
    lines = [line.strip() for line in account.lines(path)]
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
            account.bad(split, path, row + 1, reason, fix="fetch the file again", image=names[row])
    return states_N


def _papers_part(source: Path, split: str, concepts: tuple[str, ...], account: ReadLog) -> Part:
    _, part = _PARTS[split]
    names_N = _array(source / f"formatted_{part}_images.npy", account)
    path = source / f"formatted_{part}_labels.npy"
    values_NK = _array(path, account)
    if values_NK.shape != (len(names_N), len(concepts)) or not np.isin(values_NK, (0, 1)).all():
        raise InputError(
            f"not a table of 0 and 1 for {len(names_N)} images and {len(concepts)} concepts",
            file=path,
            fix=_PAPERS,
        )
    account.count(split, "without_positive", int(np.count_nonzero(~values_NK.any(axis=1))))
    return Part(
        names=tuple(str(name).replace("\\", "/").lstrip("/") for name in names_N.tolist()),
        labels_NK=np.where(values_NK == 1, POSITIVE, NEGATIVE).astype(np.int8),
        report=account.report(split),
        rejected_rows=account.rejected_rows(split),
    )


def _array(path: Path, account: ReadLog) -> npt.NDArray:
    try:
        return np.load(io.BytesIO(account.read(path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"not an array ({error})", file=path, fix=_PAPERS) from None
