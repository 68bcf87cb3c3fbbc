"""Measure the replay of points that MLflow had not taken when a run ended, and of those in a queue.

A spool of a training that logged ten metrics at each of its steps is replayed into a new sqlite
store; then as many points wait in the writer while MLflow takes none, and are sent once it does.
Seconds per thousand points that do not grow with their number say that both are linear.

    python -m benchmarks.faults.replay --points 25000 50000 100000
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.tracking import client
from pipeline.tracking.run_log import Point
from pipeline.tracking.writer import RunWriter

_METRICS = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """How many points to replay."""

    points: tuple[int, ...] = (25_000, 50_000, 100_000)
    """Of each measurement."""


def steps_of(points: int) -> list[list[Point]]:
    """Make the points of a training, step by step."""
    steps = range(points // _METRICS)
    return [[(f"train/m{m}", 1 / (1 + step), step) for m in range(_METRICS)] for step in steps]


def new_run(folder: Path) -> tuple[str, str]:
    """Make a store with a run; return the store's URI and the run's id."""
    uri = f"sqlite:///{folder}/mlflow.db"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    made = client.mlflow_client()
    return uri, made.create_run(made.create_experiment("replay")).info.run_id


def arrived(run_id: str, steps: Sequence[object]) -> bool:
    """Tell whether MLflow has each point once."""
    mlflow = client.mlflow_client()
    histories = (mlflow.get_metric_history(run_id, f"train/m{m}") for m in range(_METRICS))
    expected = list(range(len(steps)))
    return all([point.step for point in history] == expected for history in histories)


def replay(points: int) -> tuple[float, bool]:
    """Replay a spool; return the seconds, and whether all arrived."""
    with tempfile.TemporaryDirectory() as folder:
        uri, run_id = new_run(Path(folder))
        steps, spool = steps_of(points), Path(folder) / "spool.jsonl"
        spool.write_text("".join(f"{json.dumps(step)}\n" for step in steps))
        began = time.monotonic()
        left = RunWriter(uri, run_id, str(spool)).flush(3600)
        return time.monotonic() - began, not left and arrived(run_id, steps)


def catch_up(points: int) -> tuple[float, bool]:
    """Send what was logged while MLflow took nothing; return the same of it."""
    with tempfile.TemporaryDirectory() as folder:
        uri, run_id = new_run(Path(folder))
        steps, opened = steps_of(points), threading.Event()
        writer = RunWriter(uri, run_id, f"{folder}/spool.jsonl")

        def wait() -> None:
            opened.wait()

        writer._points.put(wait)
        for step in steps:
            writer.log(step)
        began = time.monotonic()
        opened.set()
        left = writer.flush(3600)
        return time.monotonic() - began, not left and arrived(run_id, steps)


def main(options: Options) -> None:
    """Measure and print a row for each."""
    print("| points | what | s | ms per thousand | all arrived once |")
    print("|---:|---|---:|---:|---|", flush=True)
    for points in options.points:
        for name, measure in (("spool", replay), ("queue", catch_up)):
            seconds, whole = measure(points)
            rate = 1e6 * seconds / points
            print(f"| {points:,} | {name} | {seconds:.1f} | {rate:.0f} | {whole} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
