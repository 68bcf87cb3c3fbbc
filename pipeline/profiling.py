"""Where the time of a step goes: a trace of a few steps, for Perfetto or chrome://tracing."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

SKIPPED, WARMING, TRACED = 1, 2, 3
"""Steps left out because they start things, steps for the profiler itself, steps traced."""


@contextlib.contextmanager
def profiled(keep: Callable[[bytes], None] | None) -> Iterator[Callable[[], None]]:
    """Trace steps `SKIPPED` + `WARMING` + 1 and on; the block calls what it is given per step.

    Args:
        keep: receives the gzipped Chrome trace (host, and GPU where there is one); None: no trace.
    """
    if keep is None:
        yield lambda: None
        return

    def ready(profiler: torch.profiler.profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json.gz"
            profiler.export_chrome_trace(str(path))
            keep(path.read_bytes())

    schedule = torch.profiler.schedule(wait=SKIPPED, warmup=WARMING, active=TRACED, repeat=1)
    with torch.profiler.profile(schedule=schedule, on_trace_ready=ready) as profiler:
        yield profiler.step
