"""Measure a rank's forward passes, and trace where the time of a step goes.

Under DDP all ranks take the same time for a step: that of the slowest, for which the others wait in
the sum of gradients. Only the forward pass tells them apart, which has no collective (DDP exchanges
buffers before it; FSDP gathers its shards within, so that its ranks look alike).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Steps left out because they start things, steps for the profiler itself, steps traced.
SKIPPED, WARMING, TRACED = 1, 2, 3


class RankTimer:
    """Sums the seconds of a network's forward passes in training mode.

    Args:
        network: inside the wrapper of DDP.
        device: a GPU's time is taken from its own events, so that nothing waits for it.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._begun: Any = None
        self._passes: list[tuple[Any, Any]] = []
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    def read(self) -> float:
        """Return the seconds since the last call; waits for the last pass."""
        passes, self._passes = self._passes, []
        if not self._on_gpu:
            return float(sum(end - begin for begin, end in passes))
        if passes:
            passes[-1][1].synchronize()
        return sum(begin.elapsed_time(end) for begin, end in passes) / 1000

    def _begin(self, network: nn.Module, *_: Any) -> None:
        self._begun = self._now() if network.training and torch.is_grad_enabled() else None

    def _end(self, *_: Any) -> None:
        if self._begun is not None:
            self._passes.append((self._begun, self._now()))

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@contextlib.contextmanager
def profiled(keep: Callable[[bytes], None] | None) -> Iterator[Callable[[], None]]:
    """Trace steps `SKIPPED` + `WARMING` + 1 and on, for Perfetto or chrome://tracing.

    Args:
        keep: receives the gzipped Chrome trace (host, and GPU where there is one); None: no trace.

    Yields:
        What the block calls after every step.
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
