"""Say on the driver, in a line for each run that ends, how it did and how long the rest takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

from pipeline.study.plan import PlannedRun
from pipeline.study.results import OFF, Record
from pipeline.study.search import Curve
from pipeline.tables import percent
from sharding.progress import clock, say

_COLUMNS = 80


class RunLines:
    """Prints a line for every run that ends.

    Args:
        runs: all that are to be done.
        at_once: of them.
        read: finds the record of a run by its name.
    """

    def __init__(
        self, runs: Sequence[PlannedRun], at_once: int, read: Callable[[str], Record | None]
    ) -> None:
        self._runs, self._at_once, self._read = {run.name: run for run in runs}, at_once, read
        self._ended: dict[str, Record | None] = {}

    def ended(self, name: str, died: bool = False) -> None:
        """Print the line of a run; one whose process died has no record."""
        self._ended[name] = None if died else self._read(name)
        say(self.line(name))

    def line(self, name: str) -> str:
        """Write the line of a run that has ended; at most 80 columns."""
        done, total = len(self._ended), len(self._runs)
        record = self._ended[name]
        parts = [_outcome(record)]
        if record is not None:
            parts.append(clock(record.seconds))
        times = [each.seconds for each in self._ended.values() if each is not None]
        if done < total and times:
            left = statistics.mean(times) * (total - done) / min(self._at_once, total - done)
            parts.append(f"{clock(left)} left")
        return _fitted(f"{done}/{total} {name}", ", ".join(parts))


def _fitted(head: str, tail: str) -> str:
    """Put both into a line of the terminal; what the head has too much is cut."""
    room = _COLUMNS - len(tail) - 2
    return f"{head if len(head) <= room else head[: room - 1] + '…'}: {tail}"


def _outcome(record: Record | None) -> str:
    if record is None:
        return "its process died"
    if not record.scores:
        return record.status
    slope = max(record.scores)
    off = f" (off {percent(record.scores[OFF]['all'])})" if slope > OFF else ""
    return f"mAP {percent(record.scores[slope]['all'])}{off}"


class TrialLines:
    """Prints a line for every trial of a search that ends.

    Args:
        count: of all trials.
    """

    def __init__(self, count: int) -> None:
        self._count, self._ended, self._best = count, 0, -math.inf
        self._begun = time.monotonic()

    def ended(self, name: str, curve: Curve) -> None:
        """Print the line of a trial."""
        self._ended += 1
        self._best = max(self._best, curve.best)
        values = ", ".join(f"{key} {value}" for key, value in curve.values.items())
        reached = f"mAP {percent(curve.best)}" if curve.scores else curve.status
        after = f" after epoch {max(curve.scores)}" if curve.status == "stopped" else ""
        best = f", best {percent(self._best)}" if self._best > -math.inf else ""
        seconds = (time.monotonic() - self._begun) / self._ended * (self._count - self._ended)
        left = f", {clock(seconds)} left" if self._ended < self._count else ""
        say(_fitted(f"{self._ended}/{self._count} {values}", f"{reached}{after}{best}{left}"))
