"""Measure time in interleaved rounds, and peak memory."""

from __future__ import annotations

import ctypes
import os
import resource
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LIBC = ctypes.CDLL(None)
_LIBC.mallopt(_M_MMAP_THRESHOLD, 1 << 16)


def cpu_seconds() -> float:
    """Read the CPU seconds of this process and of its children that have ended."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = cpu_seconds,
) -> dict[str, list[float]]:
    """Time each variant in milliseconds, one run of each per round after a warm-up round.

    Each round begins with another variant, so that none always finds the caches of the same one.

    Args:
        variants: calls by name.
        rounds: number of measured rounds.
        clock: returns seconds.
    """
    # What glibc adapts to by itself when large blocks come and go.
    _LIBC.mallopt(_M_MMAP_THRESHOLD, 1 << 25)
    _LIBC.mallopt(_M_TRIM_THRESHOLD, 1 << 26)
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for round_number in range(rounds + 1):
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            variants[name]()
            if round_number:
                times[name].append(1000 * (clock() - start))
    return times


def ratio(over: list[float], under: list[float]) -> float:
    """Compute the median of the per-round ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def peak_bytes(run: Callable[[], object]) -> int:
    """Measure the most resident memory a call adds (Linux, glibc), the median of five forks.

    For this, importing this module makes the allocator map and unmap large blocks: freed memory
    that stays resident would hide, or add to, what the call takes. Measure before `interleaved`,
    which sets that back.
    """
    return int(statistics.median(_in_fork(run) for _ in range(5)))


def _in_fork(run: Callable[[], object]) -> int:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(_peak_here(run)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader, encoding="ascii") as pipe:
        return int(pipe.read())


def _peak_here(run: Callable[[], object]) -> int:
    run()  # thread stacks and library pages are resident from here on
    _LIBC.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
