"""Read ground truth to judge labels by: a label version, a dump, or a list of what is present."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from sharding.classes import ClassTable
from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.labels import LabelTable
from sharding.layout import CLASSES_FILE
from sharding.log import count, info
from sharding.manifest import Dataset
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump
from sharding.storage.parquet import as_input_error

_PRESENCE = ("ImageID", "LabelName")
_ABOVE = 3
"""Folders above a label table that may hold its class list: VERSION, labels and the dataset."""


def read_ground_truth(dataset: Dataset, source: str, split: str = "train") -> LabelTable:
    """Read the labels that ``source`` names, as indices into the dataset's class list.

    Args:
        dataset: with the class list.
        source: a label version of the dataset; a Parquet file of one, of this dataset or of
            another, whose classes are found by MID; a dump, or an export of ours; or a CSV file
            ImageID,LabelName (or a folder with one per split) that lists everything present in its
            images, so that all else is absent from them, as the demo's ``ground_truth`` does.
        split: part of it to read.

    Raises:
        InputError: it is none of these, does not have the split, or lists no class of the dataset.
    """
    path = Path(source)
    if source in dataset.manifest.labels:
        return dataset.labels(split, source)
    if not path.exists():
        known = ", ".join(sorted(dataset.manifest.labels))
        raise InputError(
            f"neither a file nor a label version of the dataset ({known})",
            file=source,
            fix="pass labels to judge by, such as the demo's dump/ground_truth",
        )
    if path.suffix == ".parquet":
        return _read_table(path, dataset)
    listed = path / f"{split}.csv" if path.is_dir() else path
    if listed.is_file() and _header(listed) == _PRESENCE:
        return _read_presence(listed, dataset)
    return read_split(Dump.open(path), split, dataset.classes.mids).table


def _read_table(path: Path, dataset: Dataset) -> LabelTable:
    """Read a label table; its class indices are those of the class list above it.

    Where there is no list, they are the dataset's own. Labels of classes outside the dataset's list
    are left out and counted in one line of the log.
    """
    table = LabelTable.read(path)
    lists = (folder / CLASSES_FILE for folder in path.absolute().parents[:_ABOVE])
    own = next((ClassTable.read(file) for file in lists if file.is_file()), dataset.classes)
    if (fault := table.fault(len(own))) is not None:
        fix = f"keep it in labels/VERSION/ of its dataset, whose {CLASSES_FILE} says its classes"
        raise InputError(fault, file=path, fix=fix)
    if own.sha256 == dataset.classes.sha256:
        return table
    entries = table.entries()
    indices_K = np.array([dataset.classes.index_of.get(mid, -1) for mid in own.mids], np.int64)
    classes_E = indices_K[entries.classes_E]
    is_known_E = classes_E >= 0
    if outside := int(np.count_nonzero(~is_known_E)):
        if outside == len(classes_E):
            fix = f"give labels of classes that {dataset.directory / CLASSES_FILE} has"
            raise InputError("none of its labels is of a class of the dataset", file=path, fix=fix)
        left_out = f"{count(outside, 'label')} of classes outside the dataset's list left out"
        info(f"{path}: {left_out}", "WARNING")
    return LabelTable.from_entries(
        table.image_ids_N,
        entries.rows_E[is_known_E],
        classes_E[is_known_E],
        entries.states_E[is_known_E],
        table.shards,
    )


def _header(path: Path) -> tuple[str, ...]:
    """Read the names of a CSV's columns; spreadsheets write a byte order mark and quotes."""
    with (
        contextlib.suppress(csv.Error),
        open(path, encoding="utf-8-sig", errors="replace", newline="") as lines,
    ):
        return tuple(next(csv.reader(lines), ()))
    return ()


def _read_presence(path: Path, dataset: Dataset) -> LabelTable:
    """Read a list of classes per image: those listed are positive, all others negative.

    Rows of classes outside the dataset's list are left out and counted in one line of the log.
    """
    types = dict.fromkeys(_PRESENCE, pa.string())
    with as_input_error(path, kind="list of what is present", fix="check its rows"):
        rows = pc.read_csv(path, convert_options=pc.ConvertOptions(column_types=types))
        ids_E = parse_image_ids(rows["ImageID"].combine_chunks())
    K = len(dataset.classes)
    image_ids_N, rows_E = np.unique(ids_E, return_inverse=True)
    words_E = rows["LabelName"].to_pylist()
    classes = [dataset.classes.index_of.get(mid, K) for mid in words_E]
    if unknown := classes.count(K):
        first = classes.index(K)
        word, row = words_E[first], first + 2
        if unknown == len(classes):
            mids = f"write MIDs, as {dataset.directory / CLASSES_FILE} has them"
            if word in dataset.classes.names:
                mids += f": {dataset.classes.mids[dataset.classes.names.index(word)]} for {word}"
            raise InputError(f"{word!r} is no class of the dataset", file=path, row=row, fix=mids)
        outside = f"{count(unknown, 'row')} of classes outside the dataset's list left out"
        info(f"{path}: {outside}, the first {word!r} in row {row}", "WARNING")
    present_NK = np.zeros((len(image_ids_N), K + 1), np.bool_)  # the last: outside the list
    present_NK[rows_E, classes] = True
    return LabelTable.from_dense(image_ids_N, present_NK[:, :K].astype(np.int8))
