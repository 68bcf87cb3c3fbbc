"""Read how far each image must be turned, from the image lists of V4 and later.

V3's lists have no such column, but image ids and pixels are the same in every release, so that
V4's list serves V3's labels too. `rotations.parquet` keeps the turns that a dataset was made with.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sharding.errors import REPEAT_COMMAND, InputError
from sharding.image_ids import IdIndex, Ids, format_id_column, parse_image_ids
from sharding.layout import ROTATIONS_FILE, ROTATIONS_HASH
from sharding.openimages.dump_files import DumpFile, list_files
from sharding.openimages.image_lists import read_listed
from sharding.storage.files import refuse_changed
from sharding.storage.parquet import read_table, write_table

SCHEMA = pa.schema([("image_id", pa.string()), ("degrees", pa.int16())])

_UNKNOWN = -1
_DEGREES = {
    b"": _UNKNOWN,
    b"nan": _UNKNOWN,
    **{f"{d}{t}".encode(): d for d in (0, 90, 180, 270) for t in ("", ".0")},
}


@dataclass(frozen=True, kw_only=True)
class Rotations:
    """Known rotations of N images, sorted by id.

    Attributes:
        image_ids_N: uint64, ascending, distinct.
        degrees_N: int16 in {0, 90, 180, 270}, to be turned counter-clockwise (source: the Open
            Images note on rotated images, 2018-05-17). Boxes turn with the image.
    """

    image_ids_N: npt.NDArray[np.uint64]
    degrees_N: npt.NDArray[np.int16]

    @property
    def sha256(self) -> str:
        """Hash of ids and turns."""
        return hashlib.sha256(self.image_ids_N.tobytes() + self.degrees_N.tobytes()).hexdigest()

    def of(self, image_ids_B: npt.NDArray[np.uint64]) -> npt.NDArray[np.int16]:
        """Look up the degrees of each image, -1 where they are unknown."""
        rows_B = self._index.rows_of(image_ids_B)
        degrees_B = np.full(len(rows_B), _UNKNOWN, np.int16)
        degrees_B[rows_B >= 0] = self.degrees_N[rows_B[rows_B >= 0]]
        return degrees_B

    def without(self, image_ids_M: Ids) -> Rotations:
        """Leave out the rotations of some images."""
        is_kept_N = ~np.isin(self.image_ids_N, image_ids_M)
        return Rotations(
            image_ids_N=self.image_ids_N[is_kept_N], degrees_N=self.degrees_N[is_kept_N]
        )

    def write(self, path: Path) -> str:
        """Write a Parquet file atomically; return its sha256."""
        columns = [format_id_column(self.image_ids_N), pa.array(self.degrees_N)]
        return write_table(pa.table(columns, schema=SCHEMA), path)

    @classmethod
    def of_dataset(cls, directory: Path, created_by: Mapping[str, str]) -> Rotations | None:
        """Read the rotations that a dataset's images were turned by, None where there are none.

        Args:
            directory: of the dataset.
            created_by: of its manifest.

        Raises:
            InputError: the file that the manifest names is missing or damaged.
        """
        if ROTATIONS_HASH not in created_by:
            return None
        path = directory / ROTATIONS_FILE
        refuse_changed(path, created_by[ROTATIONS_HASH])
        table = read_table(path, SCHEMA, kind="rotation table", fix=REPEAT_COMMAND)
        return cls(
            image_ids_N=parse_image_ids(table["image_id"].combine_chunks()),
            degrees_N=table["degrees"].to_numpy(),
        )

    @functools.cached_property
    def _index(self) -> IdIndex:
        return IdIndex(self.image_ids_N)


def read_rotation_lists(path: Path) -> Rotations:
    """Read the images that must be turned at all (one in forty).

    Args:
        path: an image list, or a folder with files named for rotation.

    Raises:
        InputError: there is none, or as `read_rotations`.
    """
    files = [f for rare in (None, "images") for f in list_files(path, rarely_read=rare)]
    if path.is_dir():
        files = [file for file in files if "rotation" in file.name]
    if not files:
        raise InputError(
            "no image list with rotations is there (...-with-rotation.csv of V4 or later)",
            file=path,
            fix="check --rotations",
        )
    known = read_rotations(dict.fromkeys(files))
    is_turned_N = known.degrees_N > 0
    return Rotations(
        image_ids_N=known.image_ids_N[is_turned_N], degrees_N=known.degrees_N[is_turned_N]
    )


def read_rotations(files: Iterable[DumpFile]) -> Rotations:
    """Read the `Rotation` column of one or more image lists; the first mention of an id counts.

    Raises:
        InputError: a list has no such column, an id is malformed, or a value is no quarter turn.
    """
    image_ids: list[npt.NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    degrees: list[npt.NDArray[np.int16]] = [np.empty(0, np.int16)]
    for file in files:
        for image_ids_B, batch in read_listed(file, ("Rotation",)):
            image_ids.append(image_ids_B)
            degrees.append(_parse_degrees(batch.column("Rotation"), file))
    all_degrees = np.concatenate(degrees)
    is_known = all_degrees != _UNKNOWN
    image_ids_N, first = np.unique(np.concatenate(image_ids)[is_known], return_index=True)
    return Rotations(image_ids_N=image_ids_N, degrees_N=all_degrees[is_known][first])


def _parse_degrees(column: pa.Array, file: DumpFile) -> npt.NDArray[np.int16]:
    encoded = column.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    invalid = next((word for word in words if word not in _DEGREES), None)
    if invalid is not None:
        problem = f"Rotation {invalid[:20].decode(errors='replace')!r} is no quarter turn"
        raise file.error(problem, fix="write 0, 90, 180, 270, or nothing where it is unknown")
    return np.array([_DEGREES[word] for word in words], np.int16)[encoded.indices.to_numpy()]
