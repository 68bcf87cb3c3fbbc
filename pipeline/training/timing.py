"""Measure a rank's forward passes, and trace where the time of a step goes.

Under DDP all ranks take the same time for a step: that of the slowest, for which the others wait in
the sum of gradients. Only the forward pass tells them apart, which has no collective (DDP exchanges
buffers before it; FSDP gathers its shards within, so that its ranks look alike).
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.data import dali
from pipeline.data.labels import LabelledSplit, to_device
from sharding.storage import locks

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
        with locks.temporary_directory() as folder:
            path = folder / "trace.json.gz"
            profiler.export_chrome_trace(str(path))
            keep(path.read_bytes())

    schedule = torch.profiler.schedule(wait=SKIPPED, warmup=WARMING, active=TRACED, repeat=1)
    with torch.profiler.profile(schedule=schedule, on_trace_ready=ready) as profiler:
        yield profiler.step


@dataclass(frozen=True, kw_only=True)
class Headspace:
    """What one rank could do if only a part of it worked: images per second.

    Attributes:
        network: steps on one batch that stays where it trains, the ceiling.
        loader: batches without steps.
        read: encoded images, not decoded.
        copy: a batch's pixels, from host memory to where it trains.
        both: steps on the loader's batches, as a training takes them.
    """

    network: float
    loader: float
    read: float
    copy: float
    both: float

    @property
    def lost(self) -> float:
        """Share of the ceiling that waiting for the loader costs."""
        return max(0.0, 1 - self.both / self.network)

    @property
    def bottleneck(self) -> str:
        """The slowest part: network, or of the loader read, copy or decode."""
        if self.network <= self.loader:
            return "network"
        # Reading and copying run during decoding: either limits the loader only if it is as slow.
        slow = {part for part in ("read", "copy") if getattr(self, part) < 1.2 * self.loader}
        return min(slow, key=lambda part: getattr(self, part)) if slow else "decode"

    def text(self) -> str:
        """Write a line for each rate, then what limits and the option that would help."""
        rows = {
            "network": "steps on one cached batch, the ceiling",
            "loader": "batches without steps",
            "read": "encoded images alone",
            "copy": "pixels to the device alone",
            "both": f"as in training: {self.lost:.0%} of the ceiling is lost to the loader",
        }
        lines = [f"{part:8} {getattr(self, part):>10,.0f} image/s  {rows[part]}" for part in rows]
        return "\n".join([*lines, f"limit    {self.bottleneck}: {_HELPS[self.bottleneck]}"])


_HELPS = {
    "network": "--precision bf16, --compile, a smaller --image-size, or more --workers",
    "decode": "more --cpus-per-worker, or smaller images: shard with --shorter-side",
    "read": "a dataset on this machine's disk; of a bucket, --cache there",
    "copy": "a smaller --image-size",
}


def headspace(
    step: Callable[[Any], object], images: LabelledSplit, seconds: float = 60.0
) -> Headspace:
    """Measure a rank's parts one after another; ``seconds`` are shared among them.

    Args:
        step: takes one training step on a batch.
        images: the training split of the rank.
        seconds: half of it for the cached batch.
    """

    def batches() -> Iterator[Any]:
        return itertools.chain.from_iterable(map(images.epoch, itertools.count(1)))

    def encoded() -> Iterator[Any]:
        readings = map(images.loader.reading, itertools.count(1))
        return (samples for one in readings for samples, _ in dali.encoded(one))

    cached = next(batches())
    on_host = torch.empty(cached.images_BHWC.shape, dtype=torch.uint8)
    device = cached.images_BHWC.device
    return Headspace(
        network=_rate(itertools.repeat(cached), seconds / 2, step),
        loader=_rate(batches(), seconds / 6),
        read=_rate(encoded(), seconds / 12),
        copy=_rate(itertools.repeat(on_host), seconds / 12, lambda it: to_device(it, device)),
        both=_rate(batches(), seconds / 6, step),
    )


def _rate(
    items: Iterator[Any], seconds: float, act: Callable[[Any], object] = lambda item: None
) -> float:
    """Act on items for so long, after one that does not count; return images per second."""
    act(next(items))
    begun, images = _settled(), 0
    for item in items:
        act(item)
        images += len(item)
        if time.perf_counter() - begun > seconds:
            break
    return images / (_settled() - begun)


def _settled() -> float:
    """Read the clock when the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
