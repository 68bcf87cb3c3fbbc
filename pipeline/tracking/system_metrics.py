"""How busy a machine is while it trains: processors, memory, network and GPUs, every few seconds.

MLflow's own monitor would write to the tracking store itself, which only the head can reach, and
its thread outlives the run. This one hands numbers to the run's one writer and ends with its block.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

from sharding.log import info

SECONDS = 10.0


@contextlib.contextmanager
def watched(
    send: Callable[[str, Mapping[str, float]], Any], node: int, local_rank: int = 0
) -> Iterator[None]:
    """Send what this machine does until the block ends; one thread per machine does it.

    Args:
        send: takes the machine's name (``node0``) and its numbers by name; must not wait.
        node: number of the machine within the training.
        local_rank: of this process on the machine; only the first one watches.
    """
    if local_rank:
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(send, f"node{node}", done), daemon=True, name="machine"
    )
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(1.0)


class Machine:
    """Reads one machine; rates are averages since the previous reading."""

    def __init__(self) -> None:
        self._gpus = _gpus()
        psutil.cpu_percent()  # the first call only starts the measurement
        self._received, self._at = psutil.net_io_counters().bytes_recv, time.monotonic()

    def read(self) -> dict[str, float]:
        """Numbers by name: percentages, megabytes (per second), watts.

        A machine's GPUs are one mean, the least busy one and the fullest one, so that the number of
        curves does not grow with them.
        """
        memory, received = psutil.virtual_memory(), psutil.net_io_counters().bytes_recv
        at = time.monotonic()
        megabytes = (received - self._received) / 1e6 / max(at - self._at, 1e-9)
        self._received, self._at = received, at
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": (memory.total - memory.available) / 1e6,
            "network_receive_megabytes_per_second": megabytes,
            "disk_usage_percentage": psutil.disk_usage(os.sep).percent,
            **self._read_gpus(),
        }

    def _read_gpus(self) -> dict[str, float]:
        if not self._gpus:
            return {}
        import pynvml

        busy, full, watts = [], [], []
        for gpu in self._gpus:
            # Parts of a GPU, and GPUs of a guest, do not tell everything.
            with contextlib.suppress(pynvml.NVMLError):
                held = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                full.append(100 * int(held.used) / int(held.total))
            with contextlib.suppress(pynvml.NVMLError):
                busy.append(float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu))
            with contextlib.suppress(pynvml.NVMLError):
                watts.append(pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000)
        found: dict[str, float] = {}
        if busy:
            found["gpu_utilization_percentage"] = sum(busy) / len(busy)
            found["gpu_utilization_percentage_least"] = min(busy)
        if full:
            found["gpu_memory_usage_percentage_most"] = max(full)
        if watts:
            found["gpu_power_usage_watts"] = sum(watts)
        return found


def _gpus() -> list[Any]:
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
    except pynvml.NVMLError:
        return []


def _watch(
    send: Callable[[str, Mapping[str, float]], Any], node: str, done: threading.Event
) -> None:
    machine = Machine()
    while not done.wait(SECONDS):
        try:
            send(node, machine.read())
        except Exception as error:  # a training must survive its thermometer
            info(f"no more numbers of this machine: {error}", "WARNING")
            return
