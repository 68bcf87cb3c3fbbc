"""What a place that encoded images come from can do.

A `Source` is small and travels to the workers; a `Reader` is opened there and serves one shard.
There are four, a file each: `sharding.sources.directory`, `sharding.sources.archives`,
`sharding.sources.remote` and `sharding.sources.originals`; `sharding.sources.open` finds out which
one a user means.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from sharding.image_ids import Ids
from sharding.storage.retry import Buffer, limit_bytes

Item = TypeVar("Item")
Result = TypeVar("Result")


class ParallelMap(Protocol):
    """Applies a function to items, on other processes as a rule."""

    def __call__(
        self, function: Callable[[Item], Result], items: Sequence[Item], /
    ) -> Iterable[Result]:
        """Yield the results in any order."""
        ...


class Reader(Protocol):
    """Serves the images of one shard, in the order that `Source.reader` was given."""

    def read(self, image_id: str) -> Buffer:
        """The encoded bytes, valid until the next call.

        Raises:
            BadImage: there is no such image (`MISSING`), or it cannot be read.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Source(Protocol):
    """A set of images by split and id."""

    def reader(self, split: str, image_ids: Sequence[str]) -> Reader:
        """A reader of the images named."""
        ...

    def name(self, split: str, image_id: str) -> str:
        """Where an image lies, for the quarantine table: relative to the source, or a URL."""
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

    def only(self, image_ids: Sequence[str]) -> Source:
        """The same for a few images: small enough to travel with each task."""
        return self


class ReadBuffer:
    """What one image after another is read into: a fresh one costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(1 << 20))

    def read(self, descriptor: int, offset: int, size: int) -> memoryview:
        """The ``size`` bytes from ``offset`` on, fewer where the file ends; valid until the next.

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
