"""Images out of a committed tar, found by its index: for copying JPEG bytes, never re-encoding."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sharding.encoded import MISSING, BadImage, Buffer, ReadBuffer
from sharding.errors import InputError
from sharding.manifest import ShardRecord
from sharding.sources import Reader, Source


def read_index(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """(offset, size) of every component: by key in file order, then by extension.

    Raises:
        InputError: the file is missing or is no DALI index of version 1.2.
    """
    try:
        first, *lines = path.read_text(encoding="ascii").splitlines()
        version, count = first.split()
        entries: dict[str, dict[str, tuple[int, int]]] = {}
        for line in lines:
            fields = line.split()
            key = fields[3].partition(".")[0]
            entries[key] = {
                fields[at]: (int(fields[at + 1]), int(fields[at + 2]))
                for at in range(0, len(fields), 4)
            }
        if version != "v1.2" or int(count) != len(entries):
            raise ValueError(f"{version}, {count} samples declared, {len(entries)} listed")
    except FileNotFoundError:
        raise InputError("the index is missing", file=path, fix=_REPAIR) from None
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"not a DALI index ({error})", file=path, fix=_REPAIR) from None
    return entries


_REPAIR = "run jobs/verify_dataset.py --repair"
WITH_IMAGES = f"{_REPAIR} --images with the folder of the images"


@dataclass(frozen=True, kw_only=True)
class ShardSource(Source):
    """The images of one tar of a dataset."""

    tar: str

    @classmethod
    def of(cls, directory: Path, shard: ShardRecord) -> ShardSource:
        """The source of a committed shard."""
        return cls(tar=str((directory / shard.path).resolve()))

    def reader(self, split: str, image_ids: Sequence[str]) -> Reader:
        """A reader over the tar's index."""
        return _ShardReader(self.tar, read_index(Path(self.tar).with_suffix(".idx")))

    def name(self, split: str, image_id: str) -> str:
        """Tar and member."""
        return f"{os.path.basename(self.tar)}:{image_id}.jpg"


class _ShardReader:
    def __init__(self, tar: str, entries: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
        self._entries = entries
        try:
            self._file = open(tar, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise InputError(
                f"cannot be read ({error.strerror})", file=tar, fix=WITH_IMAGES
            ) from None
        self._buffer = ReadBuffer()

    def read(self, image_id: str) -> Buffer:
        entry = self._entries.get(image_id, {}).get("jpg")
        if entry is None:
            raise BadImage(MISSING)
        offset, size = entry
        data = self._buffer.read(self._file.fileno(), offset, size)
        if len(data) < size:
            raise BadImage("the tar is cut off")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
