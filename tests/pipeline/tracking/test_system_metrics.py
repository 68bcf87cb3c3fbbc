"""What a machine does, told every few seconds by one thread of it that ends with its block."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest

from pipeline.tracking import system_metrics

Sent = list[tuple[str, Mapping[str, float]]]


def watchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "machine"]


def wait_for_one(sent: Sent) -> None:
    deadline = time.monotonic() + 30
    while not sent:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reading_has_shares_and_rates() -> None:
    found = system_metrics.Machine().read()
    shares = {key: value for key, value in found.items() if "percentage" in key}
    assert {"cpu_utilization_percentage", "system_memory_usage_percentage"} <= shares.keys()
    assert all(0 <= value <= 100 for value in shares.values())
    assert found["network_receive_megabytes_per_second"] >= 0


def test_the_first_process_of_a_machine_watches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "SECONDS", 0.01)
    sent: Sent = []
    with system_metrics.watched(lambda *told: sent.append(told), 3):
        with system_metrics.watched(lambda *told: sent.append(("twice", {})), 3, local_rank=1):
            assert len(watchers()) == 1
        wait_for_one(sent)
    assert watchers() == []
    assert {node for node, _ in sent} == {"node3"}


def test_what_cannot_be_read_or_sent_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_metrics, "SECONDS", 0.01)
    tried: Sent = []

    def fail(node: str, values: Mapping[str, float]) -> None:
        tried.append((node, values))
        raise OSError("no way")

    with system_metrics.watched(fail, 0):
        wait_for_one(tried)
    assert len(tried) == 1
    assert capsys.readouterr().out == "no more numbers of this machine: no way\n"


def test_gpus_are_one_mean_the_least_busy_and_the_fullest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pynvml

    class Told:
        def __init__(self, **values: int) -> None:
            self.__dict__ = values

    busy = {"a": 90, "b": 50}
    monkeypatch.setattr(system_metrics, "_gpus", lambda: list(busy))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda gpu: Told(gpu=busy[gpu]))
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetMemoryInfo", lambda gpu: Told(used=busy[gpu], total=100)
    )

    def unknown(gpu: str) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", unknown)
    found = system_metrics.Machine().read()
    assert {key: value for key, value in found.items() if key.startswith("gpu")} == {
        "gpu_utilization_percentage": 70.0,
        "gpu_utilization_percentage_least": 50.0,
        "gpu_memory_usage_percentage_most": 90.0,
    }
