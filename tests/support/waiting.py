"""Wait for a state, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(arrived: Callable[[], object], *, every: float = 0.01) -> None:
    """Ask every few milliseconds; AssertionError after ten minutes."""
    deadline = time.monotonic() + 600
    while not arrived():
        assert time.monotonic() < deadline, "not within ten minutes"
        time.sleep(every)
