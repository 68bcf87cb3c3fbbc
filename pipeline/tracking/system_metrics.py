"""Read how busy a machine is while it trains, with MLflow's own monitors.

MLflow's `SystemMetricsMonitor` writes to the tracking store itself, which only the driver's machine
can reach where it is a file, and its thread outlives the run. The thread here hands the same
readings to the run's only writer and ends with its block.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sharding.log import info

SECONDS = 10.0


@contextlib.contextmanager
def watched(
    send: Callable[[str, Mapping[str, float]], Any], node: int, local_rank: int = 0
) -> Iterator[None]:
    """Send this machine's readings every `SECONDS` until the block ends.

    Args:
        send: takes the machine's name (``node0``) and its numbers by name; must not wait.
        node: number of the machine within the training.
        local_rank: of this process on the machine; only the first one reads it.
    """
    if local_rank:
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(send, f"node{node}", done), daemon=True, name="system-metrics"
    )
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(1.0)


def _watch(
    send: Callable[[str, Mapping[str, float]], Any], node: str, done: threading.Event
) -> None:
    try:
        monitors = _monitors()
        while not done.wait(SECONDS):
            send(node, _read(monitors))
    except Exception as error:  # no reading is worth a training
        info(f"no more system metrics of this machine: {error}", "WARNING")


def _monitors() -> list[Any]:
    """Make MLflow's monitors of CPU and memory, disk, network and, if there are any, GPUs."""
    from mlflow.system_metrics.metrics import (
        cpu_monitor,
        disk_monitor,
        gpu_monitor,
        network_monitor,
    )

    # A part of a GPU, or a guest's, does not show everything: one warning per reading.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitors: list[Any] = [
        cpu_monitor.CPUMonitor(),
        disk_monitor.DiskMonitor(),
        network_monitor.NetworkMonitor(),
    ]
    with contextlib.suppress(RuntimeError):  # no NVIDIA driver
        monitors.append(gpu_monitor.GPUMonitor())
    _read(monitors)  # CPU use is measured between two readings
    return monitors


def _read(monitors: list[Any]) -> dict[str, float]:
    """Read all monitors: numbers by name (percentages, megabytes, watts), GPUs one by one."""
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values.update(monitor.aggregate_metrics())
        monitor.clear_metrics()
    return values
