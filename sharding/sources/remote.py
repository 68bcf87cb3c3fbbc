"""Images behind URLs, fetched ahead of the shard that is being written.

A shard's worker keeps ``at_once`` requests under way and at most twice as many images in memory;
the tar is still written in the order of the ids, so that it does not depend on who answers first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from sharding.errors import InputError
from sharding.sources.base import Reader, Source
from sharding.storage.object_store import ObjectStore
from sharding.storage.retry import MISSING, BadImage, Buffer, RetriesExhausted, RetryPolicy

SILENT = 32
"""So many images in a row that were given up mean that the source is down, not the images."""


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

    def reader(self, split: str, image_ids: Sequence[str]) -> Reader:
        """A reader that fetches ahead."""
        return FetchingReader(
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


class FetchingReader:
    """Serves images in the order given while the next ones are on their way."""

    def __init__(
        self,
        image_ids: Sequence[str],
        fetch: Callable[[str], Buffer],
        policy: RetryPolicy,
        place: str,
    ) -> None:
        self._coming = iter(image_ids)
        self._fetch, self._place = fetch, place
        self._ahead: dict[str, Future[Buffer]] = {}
        self._most = 2 * policy.at_once
        self._pool = ThreadPoolExecutor(policy.at_once, thread_name_prefix="fetch")
        self._given_up = 0

    def read(self, image_id: str) -> Buffer:
        """The bytes of an image.

        Raises:
            BadImage: it is missing, or cannot be fetched.
            InputError: so many in a row could not that the source must be down.
        """
        self._fill()
        future = self._ahead.pop(image_id, None) or self._pool.submit(self._fetch, image_id)
        try:
            data = future.result()
        except RetriesExhausted as reason:
            self._given_up += 1
            if self._given_up >= SILENT:
                raise InputError(
                    f"{SILENT} images in a row could not be fetched (the last: {reason})",
                    file=self._place,
                    fix="wait until it answers, then repeat the command: finished shards are kept",
                ) from None
            raise
        except BadImage:
            self._given_up = 0
            raise
        self._given_up = 0
        return data

    def _fill(self) -> None:
        while len(self._ahead) < self._most:
            image_id = next(self._coming, None)
            if image_id is None:
                return
            self._ahead[image_id] = self._pool.submit(self._fetch, image_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
