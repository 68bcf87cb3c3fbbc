"""Retry what fails for a moment; define the policy of retries and the errors of fetching."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sharding.errors import InputError

Result = TypeVar("Result")
Buffer = bytes | bytearray | memoryview

MISSING = "missing"
"""Reason of a `BadImage` that is not there at all."""
LARGEST_IMAGE = 1 << 28
"""Bytes; the largest original of Open Images has 15 MB."""
LONGEST_PAUSE = 60.0
"""Seconds between two attempts."""


class BadImage(Exception):
    """An image or other object cannot be used; ``str(error)`` is the reason, on one line."""


class Refused(BadImage):
    """A place does not give what it may hold: of one image the image's fault, of many the place's.

    Attributes:
        fix: what to do if it refuses everything.
    """

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.fix = fix


class RetriesExhausted(BadImage):
    """Every attempt failed in a way that may pass: the next run may have more luck."""


class TransientError(Exception):
    """One attempt failed in a way that may pass: a busy server, a broken connection, a short read.

    Attributes:
        wait: seconds that the server asked for.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How to fetch over a network."""

    tries: int = 5
    """Attempts for each image, with growing pauses between them."""
    timeout: float = 30.0
    """Seconds to wait for a connection, and for the next bytes; four times that for an image."""
    at_once: int = 16
    """Images each worker fetches at the same time."""
    first_pause: float = 0.5
    """Seconds before the second attempt; doubled before each further one."""

    def __post_init__(self) -> None:
        for name in ("tries", "timeout", "at_once", "first_pause"):
            if getattr(self, name) <= 0:
                raise InputError(
                    f"--fetch.{name.replace('_', '-')} is {getattr(self, name)}",
                    fix="give a positive number",
                )

    def pause(self, attempt: int) -> float:
        """Longest pause in seconds after the attempt of this number, counted from 1."""
        return min(LONGEST_PAUSE, float(self.first_pause * 2 ** (attempt - 1)))


def retry(attempt: Callable[[], Result], policy: RetryPolicy, done: str = "fetched") -> Result:
    """Call ``attempt`` until it does not raise `TransientError`, with growing random pauses.

    Args:
        attempt: one attempt.
        policy: how often, and with which pauses.
        done: what it did not do, for the message.

    Raises:
        RetriesExhausted: it raised `TransientError` every time.
    """
    number = 1
    while True:
        try:
            return attempt()
        except TransientError as failure:
            if number >= policy.tries:
                raise RetriesExhausted(f"not {done} in {number} tries: {failure}") from None
            # Random: workers that failed together must not come back together.
            pause = policy.pause(number) * random.uniform(0.5, 1.0)
            time.sleep(max(pause, min(failure.wait, LONGEST_PAUSE)))
            number += 1


def limit_bytes(size: int) -> None:
    """Refuse what is too large for an image before memory is allocated for it.

    Raises:
        BadImage: it has more than `LARGEST_IMAGE` bytes.
    """
    if size > LARGEST_IMAGE:
        raise BadImage(f"more than {LARGEST_IMAGE:,} bytes")
