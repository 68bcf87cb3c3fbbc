"""Show progress: a bar on a terminal, plain lines or JSON objects in a log."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

from tqdm import tqdm

from sharding import log

_SECONDS_BETWEEN_LINES, _SECONDS_BETWEEN_WAITS = 5.0, 15.0
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}, {remaining} left{postfix}"
_SMALLEST_BAR = 5
_SECONDS_BETWEEN_LOOKS = 0.5


def say(line: str, **numbers: float) -> None:
    """Log a line of progress on stderr, above a bar if there is one.

    Args:
        line: text, also the message of the JSON object.
        numbers: further fields of the JSON object.
    """
    line = log.redact(line)
    if log.is_json():
        log.write_json("INFO", line, **numbers)
    else:
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """Format seconds as 1:05 or 2:01:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class _Bar(tqdm):  # type: ignore[type-arg]
    @staticmethod
    def format_meter(n: float, total: float, elapsed: float, **options: Any) -> str:
        """Write times as lines do; the time so far where no rate says yet how much is left.

        None of that where the work began before its bar.
        """
        done = n - options["initial"]
        left = ""
        if done and elapsed:
            rate = options["rate"] or done / elapsed
            left = f", {clock((total - n) / rate)} left"
        elif not n:  # else it began before this bar
            left = f", {clock(elapsed)} so far"
        shown = options["bar_format"].replace(", {remaining} left", left)
        options["bar_format"] = shown.replace("{elapsed}", clock(elapsed))
        return tqdm.format_meter(n, total, elapsed, **options)


class Waiting:
    """Time since something began that has no units to count; use as a context manager.

    On a terminal this is a line with the time so far, elsewhere a line every 15 seconds.

    Args:
        label: what is waited for.
    """

    def __init__(self, label: str) -> None:
        self._label, self._began = label, time.monotonic()
        self._printed = self._began
        self._bar = None
        if _shows_bars():
            self._bar = _Bar(desc=label, leave=False, bar_format="{desc}: {elapsed}")

    def look(self) -> None:
        """Show the time; call it as often as it should be shown."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.refresh()
        elif now - self._printed >= _SECONDS_BETWEEN_WAITS:
            self._printed, seconds = now, now - self._began
            say(f"{self._label}: {seconds:.0f} s", seconds=seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def ticking(label: str) -> Iterator[None]:
    """Show the time that a block takes, from another thread; see `Waiting`."""
    done = threading.Event()

    def tick(waiting: Waiting) -> None:
        while not done.wait(_SECONDS_BETWEEN_LOOKS):
            waiting.look()

    with Waiting(label) as waiting:
        thread = threading.Thread(target=tick, args=(waiting,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _shows_bars() -> bool:
    return sys.stderr.isatty() and not log.is_json()


class Progress:
    """Progress over ``total`` units of work; use as a context manager and call `advance`.

    On a terminal this is one tqdm bar on stderr. Elsewhere (a log file, `ray submit` through a
    pipe) it prints a line at most every five seconds and one at the end, because redrawn bars
    make logs unreadable; as a JSON object where the environment asks for it (`sharding.log`).

    Args:
        total: number of units.
        label: name of the work.
        unit: name of one unit.
        initial: units done before; they do not count for the rate.
        leave: whether the terminal's bar stays when the work is done.
    """

    def __init__(
        self, total: int, label: str, unit: str = "it", initial: int = 0, *, leave: bool = True
    ) -> None:
        self.total, self.label, self.unit = total, log.redact(label), unit
        self.done, self._initial, self._shown = initial, initial, -1
        self._note, self._numbers = "", dict[str, float]()
        self._started = self._printed = time.monotonic()
        self._bar = None
        if _shows_bars():
            self._bar = _Bar(
                total=total,
                desc=self.label,
                unit=unit,
                initial=initial,
                leave=leave,
                dynamic_ncols=True,
                bar_format=_BAR,
            )

    def advance(
        self, units: int = 1, note: str = "", numbers: Mapping[str, float] | None = None
    ) -> None:
        """Count ``units`` as done.

        Args:
            units: done since the last call.
            note: text shown after the count.
            numbers: further fields of the JSON object.
        """
        self.done += units
        self._note = log.redact(note) or self._note
        self._numbers |= numbers or {}
        if self._bar is not None:
            self._bar.set_postfix_str(self._fitting_note(self._bar), refresh=False)
            self._bar.update(units)
        elif self._waited() >= _SECONDS_BETWEEN_LINES:
            self._print_line()

    def look(self) -> None:
        """Show the time so far of work of which nothing is done yet; call it often."""
        if self._bar is not None:
            self._bar.refresh()
        elif self.done == self._initial and self._waited() >= _SECONDS_BETWEEN_WAITS:
            self._print_line()

    def _waited(self) -> float:
        return time.monotonic() - self._printed

    def _fitting_note(self, bar: tqdm[NoReturn]) -> str:
        """Leave out the last parts of the note that the terminal has no room for."""
        # At first there is no time left, later the longest is "1:00:00".
        line = f"{self.label}: 100%|| {self.total}/{self.total} {self.unit}, 1:00:00 left, "
        room = (bar.ncols or shutil.get_terminal_size().columns) - len(line) - _SMALLEST_BAR
        parts = self._note.split(", ")
        while parts and len(", ".join(parts)) > room:
            parts.pop()
        return ", ".join(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._shown != self.done:
            self._print_line()

    def _print_line(self) -> None:
        self._printed, self._shown = time.monotonic(), self.done
        elapsed = max(self._printed - self._started, 1e-9)
        rate, missing = (self.done - self._initial) / elapsed, self.total - self.done
        seconds = missing / rate if rate else float("nan") if missing else 0.0
        if log.is_json():
            counts = {"done": self.done, "total": self.total, "unit": self.unit}
            speed = {"per_second": rate, "seconds_left": seconds}
            log.write_json("INFO", self.label, **counts, **speed, **self._numbers)
            return
        parts = [f"{self.label}: {self.done}/{self.total} {self.unit}"]
        if rate:
            parts.append(f"{rate:.1f} {self.unit}/s")
        elif missing and elapsed >= 1:
            parts.append(f"{clock(elapsed)} so far")
        if rate and missing > 0:
            parts.append(f"{seconds:.0f} s left")
        if self._note:
            parts.append(self._note)
        print(", ".join(parts), file=sys.stderr, flush=True)
