"""How far an image must be turned, from the image lists of V4 and later; V3's have no such column.

Image ids and pixels are the same in every release, so that V4's list serves V3's labels too.
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
import pyarrow.parquet as pq

from sharding.errors import InputError
from sharding.image_ids import IdIndex, format_id_column, parse_id_column
from sharding.layout import ROTATIONS_FILE, ROTATIONS_HASH
from sharding.openimages.dump_files import DumpFile, list_files
from sharding.openimages.image_lists import read_listed
from sharding.storage.files import refuse_changed, replacing

SCHEMA = pa.schema([("image_id", pa.string()), ("degrees", pa.int16())])

_DEGREES = {
    b"": -1,
    b"nan": -1,
    **{f"{d}{t}".encode(): d for d in (0, 90, 180, 270) for t in ("", ".0")},
}


@dataclass(frozen=True, kw_only=True)
class Rotations:
    """Known rotations of images, sorted by id.

    Attributes:
        image_ids_N: uint64, ascending, distinct.
        degrees_N: int16 in {0, 90, 180, 270}, to be turned counter-clockwise (source: the Open
            Images note on rotated images, 2018-05-17). Boxes turn with the image.
        unknown: rows without a value.
    """

    image_ids_N: npt.NDArray[np.uint64]
    degrees_N: npt.NDArray[np.int16]
    unknown: int = 0

    @functools.cached_property
    def _index(self) -> IdIndex:
        return IdIndex(self.image_ids_N)

    @property
    def sha256(self) -> str:
        """Hash of ids and turns."""
        return hashlib.sha256(self.image_ids_N.tobytes() + self.degrees_N.tobytes()).hexdigest()

    def turned(self) -> Rotations:
        """Those that have to be turned at all, one image in forty."""
        chosen_N = self.degrees_N > 0
        return Rotations(image_ids_N=self.image_ids_N[chosen_N], degrees_N=self.degrees_N[chosen_N])

    def write(self, path: Path) -> str:
        """Write a Parquet file atomically; return its sha256."""
        columns = [format_id_column(self.image_ids_N), pa.array(self.degrees_N)]
        with replacing(path) as temporary:
            pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
            return hashlib.sha256(temporary.read_bytes()).hexdigest()

    @classmethod
    def of_dataset(cls, directory: Path, created_by: Mapping[str, str]) -> Rotations | None:
        """What a dataset's images were turned by, None where no list was given.

        Args:
            directory: of the dataset.
            created_by: of its manifest.

        Raises:
            InputError: the file that the manifest names is missing or damaged.
        """
        if ROTATIONS_HASH not in created_by:
            return None
        refuse_changed(directory / ROTATIONS_FILE, created_by[ROTATIONS_HASH])
        table = pq.read_table(directory / ROTATIONS_FILE, columns=SCHEMA.names).combine_chunks()
        ids_N, _ = parse_id_column(table["image_id"].combine_chunks())
        return cls(image_ids_N=ids_N, degrees_N=table["degrees"].to_numpy())

    def of(self, image_ids_B: npt.NDArray[np.uint64]) -> npt.NDArray[np.int16]:
        """Degrees of each image, -1 where unknown."""
        rows_B = self._index.rows_of(image_ids_B)
        degrees_B = np.full(len(rows_B), -1, np.int16)
        degrees_B[rows_B >= 0] = self.degrees_N[rows_B[rows_B >= 0]]
        return degrees_B


def turns(
    rotations: Rotations | None, image_ids_M: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int16] | None:
    """Degrees of some images as a shard task has them; None where nothing is known of any."""
    return None if rotations is None else rotations.of(image_ids_M)


def read_rotation_lists(path: Path) -> Rotations:
    """The images to be turned, from an image list, or from those of a folder named for rotation.

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
    return read_rotations(dict.fromkeys(files)).turned()


def read_rotations(files: Iterable[DumpFile]) -> Rotations:
    """Read the `Rotation` column of one or more image lists; the first mention of an id counts.

    Raises:
        InputError: a list has no such column, an id is malformed, or a value is no quarter turn.
    """
    ids: list[npt.NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    degrees: list[npt.NDArray[np.int16]] = [np.empty(0, np.int16)]
    for file in files:
        for keys_B, batch in read_listed(file, ("Rotation",)):
            ids.append(keys_B)
            degrees.append(_turns(batch.column("Rotation"), file))
    all_degrees = np.concatenate(degrees)
    known = all_degrees >= 0
    image_ids_N, first = np.unique(np.concatenate(ids)[known], return_index=True)
    return Rotations(
        image_ids_N=image_ids_N,
        degrees_N=all_degrees[known][first],
        unknown=int(np.count_nonzero(~known)),
    )


def _turns(column: pa.Array, file: DumpFile) -> npt.NDArray[np.int16]:
    encoded = column.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    strange = [word for word in words if word not in _DEGREES]
    if strange:
        raise InputError(
            f"Rotation {strange[0][:20].decode(errors='replace')!r} is no quarter turn",
            file=str(file),
            fix="write 0, 90, 180, 270, or nothing where it is unknown",
        )
    return np.array([_DEGREES[word] for word in words], np.int16)[encoded.indices.to_numpy()]
