"""Fetch images by URL, ahead of the shard that is being written.

A shard's worker keeps ``at_once`` requests under way and at most twice as many images in memory;
the tar is still written in the order of the ids, so that it does not depend on who answers first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sharding.errors import InputError
from sharding.sources.base import ReadImage, Source
from sharding.storage.object_store import ObjectStore
from sharding.storage.retry import (
    MISSING,
    BadImage,
    Buffer,
    Refused,
    RetriesExhausted,
    RetryPolicy,
)

SILENT = 32
"""Images in a row that could not be fetched, before the source itself is taken to be down."""
Probe = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class RemoteSource(Source):
    """A place that holds `<split>/<id>.jpg`, else `<id>.jpg`.

    Attributes:
        url: the place, or with ``{id}`` in it (and maybe ``{split}``) the name of each image,
            which saves asking for the second name.
        policy: of retries.
        probe: (split, id) as in `asking_for`.
    """

    url: str
    policy: RetryPolicy
    probe: tuple[str, str] | None = None

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
        probe = self.probe
        return fetch_ahead(
            image_ids,
            lambda image_id: self._fetch(split, image_id),
            self.policy,
            self.url,
            None if probe is None else lambda: self._fetch(*probe),
        )

    def asking_for(self, split: str, image_id: str) -> RemoteSource:
        """Name the image to ask for where all others are refused."""
        return dataclasses.replace(self, probe=(split, image_id))

    def name(self, split: str, image_id: str) -> str:
        """The URL looked at first."""
        return self._candidates(split, image_id)[0]

    def _candidates(self, split: str, image_id: str) -> list[str]:
        if "{id}" in self.url:
            return [self.url.replace("{split}", split).replace("{id}", image_id)]
        is_web = self.url.startswith(("http://", "https://"))
        base, mark, signature = self.url.partition("?") if is_web else (self.url, "", "")
        names = (f"{split}/{image_id}.jpg", f"{image_id}.jpg")
        if re.search(r"(^|&)[^&=]*=([^&]*/)?$", signature):  # http://host/get?file=
            return [self.url + name for name in names]
        return [f"{base.rstrip('/')}/{name}{mark}{signature}" for name in names]

    def _fetch(self, split: str, image_id: str) -> Buffer:
        missing: BadImage = BadImage(MISSING)
        for url in self._candidates(split, image_id):
            try:
                return ObjectStore(url=url, policy=self.policy).read()
            except BadImage as bad:
                # Buckets refuse what they lack to those who may not list them.
                if str(bad) != MISSING and not isinstance(bad, Refused):
                    raise
                missing = bad if isinstance(bad, Refused) else missing
        raise missing


class _Health:
    """Find out whether a source or its images are at fault, by an image that came before.

    Where none came, by the ``probe``: it is of an earlier job, so that its absence is no fault.
    """

    def __init__(self, fetch: ReadImage, place: str, probe: Probe | None) -> None:
        self._fetch, self._place, self._probe = fetch, place, probe
        self._good = ""
        self._in_a_row, self._failed = 0, 0

    def answered(self, image_id: str = "") -> None:
        """Note an answer about an image; its id where the image came."""
        self._good, self._in_a_row = image_id or self._good, 0

    def failed(self, reason: BadImage) -> None:
        """Note an image that was refused, or not fetched in all attempts.

        Raises:
            InputError: so many were in a row that the source must be at fault.
        """
        self._reason = reason
        self._in_a_row, self._failed = self._in_a_row + 1, self._failed + 1
        if self._in_a_row >= SILENT:
            self._ask_again(f"{SILENT} images in a row")
            self._in_a_row = 0

    def finished(self) -> None:
        """Judge a whole shard.

        Raises:
            InputError: all its images failed, or what came before is refused now.
        """
        if self._failed > 1 or (self._failed and self._good):
            self._ask_again(f"{self._failed} images")

    def _ask_again(self, what: str) -> None:
        if self._good:
            with contextlib.suppress(BadImage):
                self._fetch(self._good)
                return
        elif self._probe is not None:
            try:
                self._probe()
                return
            except (RetriesExhausted, Refused):
                pass
            except BadImage:
                return
        self._failed = 0
        wait = "wait until it answers, or see that the images may be read"
        fix = getattr(self._reason, "fix", "") or wait
        raise InputError(
            f"{what} could not be fetched (the last: {self._reason})",
            file=self._place,
            fix=f"{fix}; then repeat the command: finished shards are kept",
        )


@contextlib.contextmanager
def fetch_ahead(
    image_ids: Sequence[str],
    fetch: ReadImage,
    policy: RetryPolicy,
    place: str,
    probe: Probe | None = None,
) -> Iterator[ReadImage]:
    """Fetch images in threads; yields what waits for one while the next ones are on their way.

    Args:
        image_ids: in the order in which they will be read.
        fetch: reads one of them.
        policy: of which ``at_once`` bounds the threads, and twice that the images in memory.
        place: where they are, for errors.
        probe: fetches another image, which tells whether the source is down if all others fail.

    Raises:
        InputError: by reading or in the end, where so many failed that the source must be down.
    """
    waiting, ahead = iter(image_ids), dict[str, Future[Buffer]]()
    pool = ThreadPoolExecutor(policy.at_once, thread_name_prefix="fetch")
    health = _Health(fetch, place, probe)

    def read(image_id: str) -> Buffer:
        for next_id in itertools.islice(waiting, 2 * policy.at_once - len(ahead)):
            ahead[next_id] = pool.submit(fetch, next_id)
        future = ahead.pop(image_id, None) or pool.submit(fetch, image_id)
        try:
            data = future.result()
        except (RetriesExhausted, Refused) as reason:
            health.failed(reason)
            raise
        except BadImage:
            health.answered()
            raise
        health.answered(image_id)
        return data

    try:
        yield read
        health.finished()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
