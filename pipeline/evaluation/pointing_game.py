"""Boxes of Open Images, looked up by image and class: for asking where a map points."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as csv

from pipeline import storage
from sharding.classes import ClassTable
from sharding.errors import REPEAT_COMMAND, InputError
from sharding.image_ids import IdIndex, parse_image_ids
from sharding.layout import ROTATIONS_FILE, ROTATIONS_HASH
from sharding.manifest import Dataset
from sharding.storage.parquet import as_input_error, read_table

_EDGES = ("XMin", "XMax", "YMin", "YMax")
_COLUMNS = ("ImageID", "LabelName", *_EDGES)
_ROTATIONS = pa.schema([("image_id", pa.string()), ("degrees", pa.int16())])

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes sorted by image and class.

    Attributes:
        keys_N: uint64 image ids; classes_N: int64 class indices; both sorted together.
        edges_N4: left, right, top, bottom as shares of the image's size.
    """

    keys_N: npt.NDArray[np.uint64]
    classes_N: npt.NDArray[np.int64]
    edges_N4: npt.NDArray[np.float64]

    @classmethod
    def read(cls, file: Path, classes: ClassTable) -> Boxes:
        """Read a table of boxes: V3's and later `*-bbox.csv`, or the demo's ground truth.

        Boxes of classes outside the list are left out.

        Raises:
            InputError: it is missing, is no such table, or holds no box of these classes.
        """
        kinds = {"ImageID": pa.string(), "LabelName": pa.string()}
        kinds |= dict.fromkeys(_EDGES, pa.float64())
        options = csv.ConvertOptions(include_columns=list(_COLUMNS), column_types=kinds)
        try:
            table = csv.read_csv(file, convert_options=options)
            ids_N = parse_image_ids(table["ImageID"].to_pylist())
        except (InputError, OSError, pa.ArrowException, ValueError) as error:
            raise InputError(
                f"no table of boxes ({str(error).splitlines()[0]})",
                file=file,
                fix=f"pass a CSV with the columns {', '.join(_COLUMNS)}",
            ) from None
        index = {mid: number for number, mid in enumerate(classes.mids)}
        classes_N = np.array([index.get(mid, -1) for mid in table["LabelName"].to_pylist()], int)
        edges_N4 = np.stack([table[name].to_numpy() for name in _EDGES], axis=1)
        order = np.lexsort((classes_N, ids_N))
        order = order[classes_N[order] >= 0]
        if not len(order):
            raise InputError("no box of the dataset's classes", file=file, fix="pass its own boxes")
        return cls(keys_N=ids_N[order], classes_N=classes_N[order], edges_N4=edges_N4[order])

    @classmethod
    def of_dataset(cls, file: Path, dataset: Dataset, location: str) -> Boxes:
        """Read a table of boxes, turned as the dataset's pictures were (`shard --rotations`).

        Args:
            file: as of `read`.
            dataset: opened; a copy of one in a bucket need not have the table of rotations.
            location: directory or URL of the dataset.

        Raises:
            InputError: as of `read`; the dataset's table of rotations is missing or damaged.
        """
        boxes = cls.read(file, dataset.classes)
        digest = dataset.manifest.created_by.get(ROTATIONS_HASH)
        # Images that were taken unread, on trust, are as they came.
        if digest is None or dataset.manifest.treatment.get("mode") == "trust":
            return boxes
        place = storage.join(location, ROTATIONS_FILE)
        form = {"kind": "rotation table", "fix": REPEAT_COMMAND}
        with as_input_error(place, **form):
            content = storage.read_bytes(place)
            if hashlib.sha256(content).hexdigest() != digest:
                raise InputError("its hash is not the manifest's")
        turns = read_table(place, _ROTATIONS, content=content, nulls=False, **form)
        ids_M = parse_image_ids(turns["image_id"].combine_chunks())
        rows_N = IdIndex(ids_M).rows_of(boxes.keys_N)
        degrees_N = np.zeros(len(rows_N), np.int16)
        degrees_N[rows_N >= 0] = turns["degrees"].to_numpy()[rows_N[rows_N >= 0]]
        return boxes.turned(degrees_N)

    def turned(self, degrees_N: npt.NDArray[np.int16]) -> Boxes:
        """Turn each box with its image, counter-clockwise by 0, 90, 180 or 270 degrees."""
        edges_N4 = self.edges_N4.copy()
        for quarter in (90, 180, 270):
            is_turned_N = degrees_N >= quarter
            left, right, top, bottom = edges_N4[is_turned_N].T
            edges_N4[is_turned_N] = np.stack([top, bottom, 1 - right, 1 - left], axis=1)
        return dataclasses.replace(self, edges_N4=edges_N4)

    def of(self, key: int, class_index: int) -> npt.NDArray[np.float64]:
        """(M, 4) boxes of a class in an image; M is 0 where there is none."""
        first, last = (int(np.searchsorted(self.keys_N, np.uint64(key), side)) for side in _SIDES)
        classes_M = self.classes_N[first:last]
        begin, end = (int(np.searchsorted(classes_M, class_index, side)) for side in _SIDES)
        return self.edges_N4[first + begin : first + end]


def points_inside(cam_HW: npt.NDArray[np.floating], edges_M4: npt.NDArray[np.float64]) -> bool:
    """Play the pointing game: is the centre of the map's highest cell in one of the boxes?

    BoostLU keeps the order of scores, so the raw and the boosted map point to the same place.
    Zhang et al. (Top-down Neural Attention by Excitation Backprop, ECCV 2016) allow 15 pixels
    around a box; we allow none, because a cell of the map is wider than that.
    """
    H, W = cam_HW.shape
    y, x = divmod(int(np.argmax(cam_HW)), W)
    across, down = (x + 0.5) / W, (y + 0.5) / H
    left, right, top, bottom = edges_M4.T
    inside_M = (left <= across) & (across <= right) & (top <= down) & (down <= bottom)
    return bool(inside_M.any())
