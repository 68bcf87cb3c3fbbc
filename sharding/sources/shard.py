"""Read images out of a committed tar by its index: JPEG bytes are copied, never re-encoded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sharding.errors import InputError
from sharding.manifest import ShardRecord
from sharding.sources.base import ReadBuffer, Reader, Source
from sharding.storage.locks import scratch_directory
from sharding.storage.object_store import ObjectStore
from sharding.storage.retry import MISSING, BadImage, Buffer
from sharding.storage.tar_index import REPAIR_DATASET, read_index

WITH_IMAGES = f"{REPAIR_DATASET} --images with the folder of the images"


@dataclass(frozen=True, kw_only=True)
class ShardSource(Source):
    """The images of one tar of a dataset.

    Attributes:
        tar: its path, relative to the ``bucket`` where there is one; the index is beside it.
        bucket: where the dataset is, if it is in one: tar and index are downloaded to be read.
    """

    tar: str
    bucket: ObjectStore | None = None

    @classmethod
    def of(
        cls, directory: Path, shard: ShardRecord, bucket: ObjectStore | None = None
    ) -> ShardSource:
        """The source of a committed shard of the dataset in a directory or a bucket."""
        tar = str((directory / shard.path).resolve()) if bucket is None else shard.path
        return cls(tar=tar, bucket=bucket)

    def reader(self, split: str, image_ids: Sequence[str]) -> Reader:
        """A reader over the tar's index."""
        return _ShardReader(self)

    def name(self, split: str, image_id: str) -> str:
        """Tar and member."""
        return f"{os.path.basename(self.tar)}:{image_id}.jpg"


class _ShardReader:
    def __init__(self, source: ShardSource) -> None:
        with ExitStack() as stack:
            tar = Path(source.tar)
            if source.bucket is not None:
                folder = tempfile.TemporaryDirectory(prefix="tar-", dir=scratch_directory())
                tar = Path(stack.enter_context(folder), tar.name)
                source.bucket.download(source.tar, tar)
                index = Path(source.tar).with_suffix(".idx").as_posix()
                source.bucket.download(index, tar.with_suffix(".idx"))
            self._entries = read_index(tar.with_suffix(".idx"))
            try:
                self._file = stack.enter_context(open(tar, "rb", buffering=0))
            except OSError as error:
                raise InputError(
                    f"cannot be read ({error.strerror})", file=tar, fix=WITH_IMAGES
                ) from None
            self._resources = stack.pop_all()
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
        self._resources.close()
