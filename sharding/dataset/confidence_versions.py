"""Write versions of confidences: entries in any order become tables in the order of the shards.

A release has 79 M entries, ordered by image id, and the order of the shards is that of a hash. So
entries go into files on the disk first, one for every few thousand rows, and each of these is then
sorted in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from sharding.confidences import SCHEMA, Confidences, read_parts, write_part
from sharding.dataset.members import Members, ids_of
from sharding.errors import InputError
from sharding.image_ids import IdIndex, Ids
from sharding.labels import entry_keys
from sharding.layout import CONFIDENCES_FOLDER, SPLITS, STAGING_FOLDER, confidences_path
from sharding.manifest import Dataset, Manifest
from sharding.manifest_parts import ConfidenceFile, ConfidenceVersion
from sharding.storage.files import replacing, sha256_of

_ROWS = 1 << 13
"""Images of a row group: with a confidence for each of 5,000 classes they take 500 MB."""
_ENTRY = np.dtype([("key", "<i8"), ("value", "<f4")])
_STAGED = "confidences_{}_{:06d}.rows"


class ConfidenceWriter:
    """Take the entries of one version and write its tables; what it staged goes with `close`.

    Memory takes the index of the images and, in turn, one block or one row group of entries.

    Args:
        directory: of the dataset.
        members: the images of every tar.
    """

    def __init__(self, directory: Path, members: Sequence[Members]) -> None:
        self._directory = directory
        members = sorted(members, key=lambda part: part.shard.path)
        present = {part.shard.split for part in members}
        self._ids = {split: ids_of(split, members) for split in SPLITS if split in present}
        self._index = IdIndex(np.concatenate([np.empty(0, np.uint64), *self._ids.values()]))
        self._staging = directory / STAGING_FOLDER
        self.close()  # of a job that was killed

    def add(
        self,
        image_ids_E: Ids,
        classes_E: npt.NDArray[np.integer],
        values_E: npt.NDArray[np.float32],
    ) -> int:
        """Stage a block of entries; return how many are of images that the dataset does not have.

        Raises:
            InputError: the disk is full.
        """
        if not len(image_ids_E):
            return 0
        # Entries of one image mostly follow each other.
        starts = np.flatnonzero(np.concatenate([[True], image_ids_E[1:] != image_ids_E[:-1]]))
        rows = self._index.rows_of(image_ids_E[starts])
        rows_E = np.repeat(rows, np.diff([*starts, len(image_ids_E)]))
        is_known_E = rows_E >= 0
        self._stage(rows_E[is_known_E], classes_E[is_known_E], values_E[is_known_E])
        return int(np.count_nonzero(~is_known_E))

    def finish(self, name: str) -> tuple[dict[str, ConfidenceFile], int]:
        """Write the tables; return them by split, and how many entries were said before.

        Of several confidences of one image and class the largest counts.
        """
        files, repeated = {}, 0
        for split, ids_N in self._ids.items():
            path, count = confidences_path(name, split), 0
            with replacing(self._directory / path) as temporary:
                with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
                    for first in range(0, len(ids_N), _ROWS):
                        entries, again = self._sorted(split, first // _ROWS)
                        write_part(writer, ids_N[first : first + _ROWS], entries)
                        count, repeated = count + len(entries.rows_E), repeated + again
                digest = sha256_of(temporary)
            files[split] = ConfidenceFile(
                path=path, images=len(ids_N), entries=count, sha256=digest
            )
        return files, repeated

    def close(self) -> None:
        """Remove what was staged."""
        for path in self._staging.glob(_STAGED.replace("{}", "*").replace("{:06d}", "*")):
            path.unlink()
        with contextlib.suppress(OSError):  # others stage there too
            self._staging.rmdir()

    def __enter__(self) -> ConfidenceWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _stage(
        self,
        rows_E: npt.NDArray[np.int64],
        classes_E: npt.NDArray[np.integer],
        values_E: npt.NDArray[np.float32],
    ) -> None:
        """Append entries to the file of their row group."""
        begin = 0
        for split, ids_N in self._ids.items():
            for number, chosen in _groups(rows_E - begin, len(ids_N)):
                staged = np.empty(len(chosen), _ENTRY)
                within = rows_E[chosen] - begin - number * _ROWS
                staged["key"] = entry_keys(within, classes_E[chosen])
                staged["value"] = values_E[chosen]
                with _disk_errors(self._staging):
                    self._staging.mkdir(parents=True, exist_ok=True)
                    with open(self._staging / _STAGED.format(split, number), "ab") as file:
                        file.write(staged.tobytes())
            begin += len(ids_N)

    def _sorted(self, split: str, number: int) -> tuple[Confidences, int]:
        """Sort a row group's entries; of those said twice the largest is kept, others counted."""
        path = self._staging / _STAGED.format(split, number)
        staged = np.fromfile(path, _ENTRY) if path.exists() else np.empty(0, _ENTRY)
        staged = staged[np.lexsort((-staged["value"], staged["key"]))]
        keys = staged["key"]
        is_first = np.ones(len(keys), np.bool_)
        is_first[1:] = keys[1:] != keys[:-1]
        kept = staged[is_first]
        entries = Confidences(
            rows_E=kept["key"] >> 16, classes_E=kept["key"] & 0xFFFF, values_E=kept["value"].copy()
        )
        return entries, len(keys) - len(kept)


def _groups(
    rows_E: npt.NDArray[np.int64], size: int
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Yield (row group, positions of its entries) for the rows from 0 up to ``size``."""
    inside = np.flatnonzero((rows_E >= 0) & (rows_E < size))
    if not len(inside):
        return
    numbers = rows_E[inside] // _ROWS
    order = np.argsort(numbers, kind="stable")
    found, firsts = np.unique(numbers[order], return_index=True)
    yield from zip(found.tolist(), np.split(inside[order], firsts[1:]), strict=True)


@contextlib.contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"cannot be written ({os.strerror(error.errno or 0)})"
        fix = "free 12 bytes for each confidence, then repeat the command"
        raise InputError(problem, file=place, fix=fix) from None


def rearranged(
    dataset: Dataset, members: Sequence[Members]
) -> Mapping[str, ConfidenceVersion] | None:
    """Write the tables of every version again, over other images than before.

    Images that are new have no confidences until the command that wrote the version is repeated.

    Raises:
        InputError: a table is missing or damaged, or the disk is full.
    """
    versions = dataset.manifest.confidences
    if versions is None:
        return None
    return {name: _rearranged(dataset, name, members) for name in versions}


def _rearranged(dataset: Dataset, name: str, members: Sequence[Members]) -> ConfidenceVersion:
    version = dataset.confidence_version(name)
    with ConfidenceWriter(dataset.directory, members) as writer:
        for file in version.splits.values():
            for part in read_parts(dataset.directory / file.path):
                entries = part.entries(np.arange(len(part)))
                writer.add(part.image_ids_N[entries.rows_E], entries.classes_E, entries.values_E)
        files, _ = writer.finish(name)
    return dataclasses.replace(version, splits=files)


def tables_of(manifest: Manifest) -> list[ConfidenceFile]:
    """List the tables of all versions."""
    versions = (manifest.confidences or {}).values()
    return [file for version in versions for file in version.splits.values()]


def remove_unnamed(directory: Path, manifest: Manifest) -> None:
    """Remove tables of splits that a version has no more."""
    named = {file.path for file in tables_of(manifest)}
    for name in manifest.confidences or {}:
        for path in (directory / CONFIDENCES_FOLDER / name).glob("*.parquet"):
            if path.relative_to(directory).as_posix() not in named:
                path.unlink()
