"""One thread per machine reads MLflow's monitors every few seconds and ends with its block."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import SimpleNamespace

import pynvml
import pytest

from pipeline.tracking import system_metrics
from tests.support.waiting import wait_until

Sent = list[tuple[str, Mapping[str, float]]]


def watchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "system-metrics"]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "SECONDS", 0.01)


def test_the_first_process_of_a_machine_reads_it() -> None:
    sent: Sent = []
    with system_metrics.watched(lambda *reading: sent.append(reading), 3):
        with system_metrics.watched(lambda *_: sent.append(("twice", {})), 3, local_rank=1):
            assert len(watchers()) == 1
        wait_until(lambda: sent)
    assert watchers() == []
    assert {node for node, _ in sent} == {"node3"}
    values = sent[0][1]
    shares = {key: value for key, value in values.items() if "percentage" in key}
    assert {"cpu_utilization_percentage", "system_memory_usage_percentage"} <= shares.keys()
    assert all(0 <= value <= 100 for value in shares.values())
    assert values["network_receive_megabytes"] >= 0


def test_what_cannot_be_read_or_sent_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tried: Sent = []

    def fail(node: str, values: Mapping[str, float]) -> None:
        tried.append((node, values))
        raise OSError("no way")

    with system_metrics.watched(fail, 0):
        wait_until(lambda: tried)
    assert len(tried) == 1
    assert capsys.readouterr().out == "no more system metrics of this machine: no way\n"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of which NVML does not show the power, as it does of a part of one."""
    busy = (90, 50)

    def unknown(gpu: int) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: len(busy),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=busy[gpu]),
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=busy[gpu], total=100),
        "nvmlDeviceGetPowerUsage": unknown,
    }
    for name, function in answers.items():
        monkeypatch.setattr(pynvml, name, function)


@pytest.mark.usefixtures("two_gpus")
def test_every_gpu_is_read_as_far_as_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    values = system_metrics._read(system_metrics._monitors())
    assert {key: value for key, value in values.items() if "gpu" in key and "mega" not in key} == {
        "gpu_0_utilization_percentage": 90.0,
        "gpu_0_memory_usage_percentage": 90.0,
        "gpu_1_utilization_percentage": 50.0,
        "gpu_1_memory_usage_percentage": 50.0,
    }
    assert capsys.readouterr() == ("", "")
