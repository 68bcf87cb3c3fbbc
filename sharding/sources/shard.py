"""Images out of a committed tar, found by its index: for copying JPEG bytes, never re-encoding."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sharding.errors import InputError
from sharding.manifest import ShardRecord
from sharding.sources.base import ReadBuffer, Reader, Source
from sharding.storage.retry import MISSING, BadImage, Buffer
from sharding.storage.tar_index import _REPAIR, read_index

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
