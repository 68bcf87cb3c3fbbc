"""Fetch images by URL, ahead of the shard that is being written.

A shard's worker keeps ``at_once`` requests under way and at most twice as many images in memory;
the tar is still written in the order of the ids, so that it does not depend on who answers first.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sharding.errors import InputError
from sharding.sources.base import ReadImage, Source
from sharding.storage.object_store import ObjectStore
from sharding.storage.retry import MISSING, BadImage, Buffer, RetriesExhausted, RetryPolicy

SILENT = 32
"""Images in a row that could not be fetched, before the source itself is taken to be down."""


@dataclass(frozen=True, kw_only=True)
class RemoteSource(Source):
    """A place that holds `<split>/<id>.jpg`, else `<id>.jpg`.

    Attributes:
        url: the place, or with ``{id}`` in it (and maybe ``{split}``) the name of each image,
            which saves asking for the second name.
        policy: of retries.
    """

    url: str
    policy: RetryPolicy

    @classmethod
    def open(cls, url: str, policy: RetryPolicy) -> RemoteSource:
        """Check that there is a client for the URL; nothing is asked of the server yet.

        Raises:
            InputError: there is none.
        """
        ObjectStore(url=url, policy=policy).connect()
        return cls(url=url, policy=policy)

    def reader(self, split: str, image_ids: Sequence[str]) -> AbstractContextManager[ReadImage]:
        """Start to fetch the images."""
        return fetch_ahead(
            image_ids, lambda image_id: self._fetch(split, image_id), self.policy, self.url
        )

    def name(self, split: str, image_id: str) -> str:
        """The URL looked at first."""
        return self._candidates(split, image_id)[0]

    def _candidates(self, split: str, image_id: str) -> list[str]:
        if "{id}" in self.url:
            return [self.url.replace("{split}", split).replace("{id}", image_id)]
        base = self.url.rstrip("/")
        return [f"{base}/{split}/{image_id}.jpg", f"{base}/{image_id}.jpg"]

    def _fetch(self, split: str, image_id: str) -> Buffer:
        for url in self._candidates(split, image_id):
            try:
                return ObjectStore(url=url, policy=self.policy).read()
            except BadImage as bad:
                if str(bad) != MISSING:
                    raise
        raise BadImage(MISSING)


@contextlib.contextmanager
def fetch_ahead(
    image_ids: Sequence[str], fetch: ReadImage, policy: RetryPolicy, place: str
) -> Iterator[ReadImage]:
    """Fetch images in threads; yields what waits for one while the next ones are on their way.

    Args:
        image_ids: in the order in which they will be read.
        fetch: reads one of them.
        policy: of which ``at_once`` bounds the threads, and twice that the images in memory.
        place: where they are, for errors.

    Raises:
        InputError: by reading, where so many in a row failed that the source must be down.
    """
    waiting, ahead = iter(image_ids), dict[str, Future[Buffer]]()
    pool = ThreadPoolExecutor(policy.at_once, thread_name_prefix="fetch")
    failures_in_a_row = 0

    def read(image_id: str) -> Buffer:
        nonlocal failures_in_a_row
        for next_id in itertools.islice(waiting, 2 * policy.at_once - len(ahead)):
            ahead[next_id] = pool.submit(fetch, next_id)
        future = ahead.pop(image_id, None) or pool.submit(fetch, image_id)
        try:
            data = future.result()
        except RetriesExhausted as reason:
            failures_in_a_row += 1
            if failures_in_a_row >= SILENT:
                raise InputError(
                    f"{SILENT} images in a row could not be fetched (the last: {reason})",
                    file=place,
                    fix="wait until it answers, then repeat the command: finished shards are kept",
                ) from None
            raise
        except BadImage:
            failures_in_a_row = 0
            raise
        failures_in_a_row = 0
        return data

    try:
        yield read
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
