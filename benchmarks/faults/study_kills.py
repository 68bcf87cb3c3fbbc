"""Kill a study at random moments (SIGKILL), repeat its command, compare its table.

One undisturbed study, then one whose driver is killed ``--kills`` times before it is left alone.
Moments are uniform over the first part of the undisturbed study's time, so that the kills do not
fall behind its end; Ray's processes die with their driver.
Tables are compared by every column but the seconds.

    python -m benchmarks.faults.study_kills --dataset demo/dataset --kills 5
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

_PART = 0.6
JOB = Path(__file__).parents[2] / "jobs" / "study_openimages.py"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to study, and how often to kill it."""

    dataset: Path
    """Dataset directory (make demo writes demo/dataset)."""
    output: Path = Path("demo/study_kills")
    """Where the studies go."""
    kills: int = 5
    """Of one study."""
    rows: tuple[str, ...] = ("an@1/1", "ll-r@1/5")
    """Of the study."""
    seeds: int = 2
    """Trainings of each row."""
    train: tuple[str, ...] = (
        *(
            "workers=1",
            "cpus_per_worker=1",
            "epochs=1",
            "image_size=64",
            "backbone=timm/test_resnet",
        ),
        *("batch_size=16", "learning_rate=1e-3", "candidates_per_epoch=0", "log_model=off"),
    )
    """Options of every training."""
    seed: int = 0
    """Of the moments."""


def start(options: Options, name: str) -> subprocess.Popen[bytes]:
    """Start a study, or repeat its command."""
    command = ["--dataset", str(options.dataset), "--output", str(options.output / name)]
    command += ["--rows", *options.rows, "--seeds", str(options.seeds), "--train", *options.train]
    with (options.output / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(JOB), *command],
            env={**os.environ, "RAY_ADDRESS": "local"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def table(options: Options, name: str) -> list[dict[str, str]]:
    """Read a study's table without the seconds."""
    with (options.output / name / "study.csv").open(newline="", encoding="utf-8") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def main(options: Options) -> None:
    """Kill, compare, print."""
    options.output.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    if start(options, f"undisturbed-{options.seed}").wait():
        raise SystemExit("the undisturbed study failed: see its log")
    seconds, draws = time.monotonic() - begun, random.Random(options.seed)
    name = f"killed-{options.seed}"
    print("| after s | it was | runs that were finished then |\n|---:|---|---:|", flush=True)
    for _ in range(options.kills):
        process, delay = start(options, name), draws.uniform(0, _PART * seconds)
        did = "over"
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            did = "killed"
        finished = len(list((options.output / name / "results").glob("*.json")))
        print(f"| {delay:.1f} | {did} | {finished} |", flush=True)
    if start(options, name).wait():
        raise SystemExit("the study that was killed failed: see its log")
    same = table(options, name) == table(options, f"undisturbed-{options.seed}")
    print(f"\nthe table of {len(table(options, name))} rows is {'the same' if same else 'ANOTHER'}")


if __name__ == "__main__":
    main(tyro.cli(Options))
