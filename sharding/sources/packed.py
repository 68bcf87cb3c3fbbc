"""Read images at known positions in a few large files: plain tars and spools of others."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharding.errors import InputError
from sharding.image_ids import IdIndex, Ids, parse_image_ids
from sharding.sources.base import ReadBuffer, ReadImage, Source
from sharding.storage.files import replacing
from sharding.storage.retry import MISSING, BadImage, Buffer

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PackedImages(Source):
    """A list of the file, offset and size of each image.

    Attributes:
        files: the large files.
        names: the archive that each of them stands for.
        image_ids_N: uint64, ascending.
        places_N3: int64 number of the file, offset and size in bytes.
        unusable: why further images that the files name cannot be read, by id.
    """

    files: tuple[str, ...]
    names: tuple[str, ...]
    image_ids_N: Ids
    places_N3: Numbers
    unusable: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        file: str,
        name: str,
        rows: Sequence[tuple[int, int, int]],
        unusable: Mapping[int, str] | None = None,
    ) -> PackedImages:
        """List the images of one file by (id, offset, size); the first mention of an id counts."""
        ids = np.array([key for key, _, _ in rows], np.uint64)
        image_ids_N, first = np.unique(ids, return_index=True)
        places = np.array([(0, *place) for _, *place in rows], np.int64).reshape(-1, 3)
        return cls(
            files=(file,),
            names=(name,),
            image_ids_N=image_ids_N,
            places_N3=places[first],
            unusable=unusable or {},
        )

    @classmethod
    def first_of(cls, parts: Sequence[PackedImages]) -> PackedImages:
        """Join the lists of single files; where two have the same, the earlier counts."""
        ids = np.concatenate([part.image_ids_N for part in parts])
        places = np.concatenate([part.places_N3 for part in parts])
        places[:, 0] = np.repeat(np.arange(len(parts)), [len(part.image_ids_N) for part in parts])
        image_ids_N, first = np.unique(ids, return_index=True)
        return cls(
            files=tuple(part.files[0] for part in parts),
            names=tuple(part.names[0] for part in parts),
            image_ids_N=image_ids_N,
            places_N3=places[first],
            unusable={key: why for part in reversed(parts) for key, why in part.unusable.items()},
        )

    def save(self, file: Path) -> None:
        """Write the list beside its file, atomically: the file is complete from then on."""
        with replacing(file.with_suffix(".npz")) as temporary, open(temporary, "wb") as out:
            keys = np.array(list(self.unusable), np.uint64)
            reasons = np.array(list(self.unusable.values()), np.str_)
            np.savez(
                out, ids=self.image_ids_N, places=self.places_N3, unusable=keys, reasons=reasons
            )

    @classmethod
    def load(cls, file: Path, name: str) -> PackedImages:
        """Read what `save` wrote."""
        with np.load(file.with_suffix(".npz")) as arrays:
            return cls(
                files=(str(file),),
                names=(name,),
                image_ids_N=arrays["ids"],
                places_N3=arrays["places"],
                unusable=dict(
                    zip(arrays["unusable"].tolist(), arrays["reasons"].tolist(), strict=True)
                ),
            )

    def only(self, image_ids: Sequence[str]) -> PackedImages:
        """Narrow the list to a few images."""
        ids_M = parse_image_ids(image_ids)
        chosen_N = np.isin(self.image_ids_N, ids_M)
        named = set(ids_M.tolist()) if self.unusable else set()
        return dataclasses.replace(
            self,
            image_ids_N=self.image_ids_N[chosen_N],
            places_N3=self.places_N3[chosen_N],
            unusable={key: why for key, why in self.unusable.items() if key in named},
        )

    @contextlib.contextmanager
    def reader(self, split: str, image_ids: Sequence[str]) -> Iterator[ReadImage]:
        """Open the files, each when its first image is read."""
        buffer, descriptors = ReadBuffer(), dict[int, int]()

        def read(image_id: str) -> Buffer:
            place = self.place(image_id)
            if place is None:
                raise BadImage(self.unusable.get(int(image_id, 16), MISSING))
            number, offset, size = place
            if number not in descriptors:
                descriptors[number] = _open(self.files[number])
            data = buffer.read(descriptors[number], offset, size)
            if len(data) < size:
                raise BadImage("the archive is cut off")
            return data

        try:
            yield read
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)

    def name(self, split: str, image_id: str) -> str:
        """Archive and member; the first archive where none has it."""
        place = self.place(image_id)
        name = self.names[0 if place is None else place[0]]
        return f"{os.path.basename(name)}:{image_id}.jpg"

    def place(self, image_id: str) -> tuple[int, int, int] | None:
        """Find the (file number, offset, size) of an image, None where there is none."""
        (key,) = parse_image_ids([image_id])
        row = self._index.row_of(key)
        if row < 0:
            return None
        number, offset, size = self.places_N3[row].tolist()
        return number, offset, size

    @functools.cached_property
    def _index(self) -> IdIndex:
        return IdIndex(self.image_ids_N)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            f"cannot be opened ({error.strerror})",
            file=path,
            fix="put archives and dataset where every worker can read them",
        ) from None
