"""Read images out of a committed tar by its index: JPEG bytes are copied, never re-encoded."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import InputError, how_to_repair
from sharding.layout import INDEX, TAR
from sharding.manifest_parts import ShardRecord
from sharding.sources.base import ReadImage, Source
from sharding.sources.packed import PackedImages
from sharding.storage.locks import scratch_directory, scratch_space
from sharding.storage.object_store import ObjectStore
from sharding.storage.tar_index import read_index

WITH_IMAGES = ("--images", "FOLDER")
"""What `how_to_repair` adds where a tar is lost."""


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
        """Name a committed tar of the dataset in a directory or a bucket."""
        tar = str((directory / shard.path).resolve()) if bucket is None else shard.path
        return cls(tar=tar, bucket=bucket)

    @contextlib.contextmanager
    def reader(self, split: str, image_ids: Sequence[str]) -> Iterator[ReadImage]:
        """Open the tar, downloaded to this machine where it is in a bucket."""
        with tempfile.TemporaryDirectory(prefix="tar-", dir=scratch_directory()) as folder:
            tar = Path(self.tar)
            if self.bucket is not None:
                tar = Path(folder, tar.name)
                with scratch_space():
                    for suffix in (TAR, INDEX):
                        name = str(Path(self.tar).with_suffix(suffix))
                        self.bucket.download(name, tar.with_suffix(suffix))
            entries = read_index(tar.with_suffix(INDEX))
            if not tar.is_file():
                fix = how_to_repair(tar, *WITH_IMAGES)
                raise InputError("cannot be read (it is missing)", file=tar, fix=fix)
            rows = [
                (int(key, 16), *components["jpg"])
                for key, components in entries.items()
                if "jpg" in components
            ]
            images = PackedImages.of(str(tar), self.tar, rows)
            with images.reader(split, image_ids) as read:
                yield read

    def name(self, split: str, image_id: str) -> str:
        """Tar and member."""
        return f"{os.path.basename(self.tar)}:{image_id}.jpg"
