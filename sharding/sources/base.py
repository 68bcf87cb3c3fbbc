"""Define what a source of encoded images can do.

A `Source` is small and travels to the workers; a reader is opened there and serves one shard.
`sharding.sources.open` finds out which kind of source a user names; each has a file of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from sharding.image_ids import Ids
from sharding.storage.retry import MISSING, BadImage, Buffer, limit_bytes

Item = TypeVar("Item")
Result = TypeVar("Result")

ReadImage = Callable[[str], Buffer]
"""Reads the encoded bytes of an image by its id, valid until the next call.

Raises `BadImage` where there is no such image (`MISSING`), or it cannot be read.
"""


class ParallelMap(Protocol):
    """Applies a function to items, on other processes as a rule."""

    def __call__(
        self, function: Callable[[Item], Result], items: Sequence[Item], /
    ) -> Iterable[Result]:
        """Yield the results in any order."""
        ...


class Source(Protocol):
    """A set of images by split and id."""

    def reader(self, split: str, image_ids: Sequence[str]) -> AbstractContextManager[ReadImage]:
        """Open the source for the images named, which are then read in this order."""
        raise AssertionError(f"{type(self).__name__} has to be staged before it is read")

    def name(self, split: str, image_id: str) -> str:
        """Path or URL of an image for the quarantine table; a path is relative to the source."""
        ...

    @property
    def at_random(self) -> bool:
        """Whether a few images can be read without reading all."""
        return True

    def staged(
        self, image_ids_N: Ids, shared: Path | None, parallel: ParallelMap
    ) -> AbstractContextManager[Source]:
        """Prepare once what the shards of these images will be read from; clean up at the end.

        Args:
            image_ids_N: all images of the job, also those of shards that are finished.
            shared: a directory that all workers reach, with room; None where there is none.
            parallel: spreads work over the cluster.

        Raises:
            InputError: the images cannot be read, or need a directory where there is none.
        """
        return contextlib.nullcontext(self)

    def asking_for(self, split: str, image_id: str) -> Source:
        """Name an image of the dataset that tells, where all others are refused, who is at fault.

        A job that looks only for what was missing before may get no image at all.
        """
        return self

    def only(self, image_ids: Sequence[str]) -> Source:
        """Narrow the source to a few images, so that it is small enough for each task."""
        return self


class ReadBuffer:
    """Memory that one image after another is read into; a fresh page costs a fault every 4 KiB."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(1 << 20))

    def read(self, descriptor: int, offset: int, size: int) -> memoryview:
        """Read ``size`` bytes from ``offset`` on, fewer where the file ends; valid until the next.

        Raises:
            BadImage: no image has so many.
            OSError: they cannot be read.
        """
        limit_bytes(size)
        if size > len(self._memory):
            self._memory = memoryview(bytearray(2 * size))
        filled = 0
        while filled < size:
            count = os.preadv(descriptor, [self._memory[filled:size]], offset + filled)
            if not count:
                break
            filled += count
        return self._memory[:filled]

    def read_first(self, paths: Iterable[str]) -> memoryview:
        """Read the first of the files that is there; valid until the next.

        Raises:
            BadImage: none is there, or it cannot be read.
        """
        for path in paths:
            try:
                # A named pipe would wait for its writer; it is an empty file here.
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise BadImage(f"cannot be opened: {error.strerror}") from None
            try:
                return self.read(descriptor, 0, os.fstat(descriptor).st_size)
            except OSError as error:
                raise BadImage(f"cannot be read: {error.strerror}") from None
            finally:
                os.close(descriptor)
        raise BadImage(MISSING)
