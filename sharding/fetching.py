"""Fetching over a network: how long to wait, how often to try again, when to give up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sharding.encoded import BadImage
from sharding.errors import InputError

Result = TypeVar("Result")

LONGEST_WAIT = 60.0


@dataclass(frozen=True, kw_only=True)
class Fetching:
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
        return min(LONGEST_WAIT, float(self.first_pause * 2 ** (attempt - 1)))


class Passing(Exception):
    """A failure that may pass: a busy server, a broken connection, a short read.

    Attributes:
        wait: seconds that the server asked for.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class GaveUp(BadImage):
    """Every attempt failed in a way that may pass: the next run may have more luck."""


def patiently(fetch: Callable[[], Result], fetching: Fetching, done: str = "fetched") -> Result:
    """Call ``fetch`` until it does not raise `Passing`.

    Args:
        fetch: one attempt.
        fetching: how often, and with which pauses.
        done: what it did not do, for the message.

    Raises:
        GaveUp: it did so every time.
    """
    attempt = 1
    while True:
        try:
            return fetch()
        except Passing as failure:
            if attempt >= fetching.tries:
                raise GaveUp(f"not {done} in {attempt} tries: {failure}") from None
            # Random: workers that failed together must not come back together.
            pause = fetching.pause(attempt) * random.uniform(0.5, 1.0)
            time.sleep(max(pause, min(failure.wait, LONGEST_WAIT)))
            attempt += 1
