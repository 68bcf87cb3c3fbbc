"""Kill -9 training at random moments: does it end in the same weights, and how soon does it go on?

One undisturbed run, then one run per kill, alternately of a worker (Ray Train starts the workers
again) and of the driver (the same command is repeated). Checkpoints are written every step, so
that a kill falls within an epoch. Time is from the kill to the first checkpoint of a new step.

    python benchmarks/faults.py --dataset demo/dataset --kills 10
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import tyro

JOB = Path(__file__).parents[1] / "jobs" / "train_openimages.py"
PATIENCE = 900


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to kill, and how often."""

    dataset: Path
    """Dataset directory (make demo writes demo/dataset)."""
    output: Path = Path("demo/faults")
    """Where the runs go."""
    kills: int = 10
    """Half of them of a worker, half of the driver."""
    epochs: int = 2
    """Of each run."""
    steps: int = 6
    """Of each epoch."""
    seed: int = 0
    """Of the moments."""


class Runs:
    """Trainings that differ in name and in luck."""

    def __init__(self, options: Options) -> None:
        self._options = options
        options.output.mkdir(parents=True, exist_ok=True)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Begin or continue a run."""
        options = self._options
        command = [
            *(sys.executable, str(JOB), "--preset", "demo", "--name", name),
            *("--dataset", str(options.dataset.resolve()), "--epochs", str(options.epochs)),
            *("--max-steps", str(options.steps), "--checkpoint-every", "1", "--storage", "runs"),
        ]
        with (options.output / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=options.output,
                env={**os.environ, "RAY_ADDRESS": "local"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def position(self, name: str) -> int:
        """Steps of the newest checkpoint."""
        found = [0]
        for path in (self._options.output / "runs" / name).glob("checkpoint_2*/meta.json"):
            meta = json.loads(path.read_text())
            found.append(meta["epoch"] * self._options.steps + meta["step"])
        return max(found)

    def weights(self, name: str) -> str:
        """Hash of the weights after the last epoch."""
        for path in (self._options.output / "runs" / name).glob("checkpoint_2*/meta.json"):
            if json.loads(path.read_text())["epoch"] == self._options.epochs:
                state = torch.load(path.parent / "model.pt", weights_only=True)
                digest = hashlib.sha256()
                for key in sorted(state):
                    digest.update(state[key].numpy().tobytes())
                return digest.hexdigest()[:16]
        return "unfinished"


def wait_until(arrived: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll while the process runs."""
    deadline = time.monotonic() + PATIENCE
    while not arrived() and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise SystemExit("a run hangs")
        time.sleep(0.05)


def disturbed(runs: Runs, name: str, victim: str, moment: int) -> tuple[float, str]:
    """(seconds until it went on, hash of the final weights) of a run killed after some steps."""
    process = runs.start(name)
    wait_until(lambda: runs.position(name) >= moment, process)
    if victim == "driver":
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    else:
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "RayTrainWorker" in " ".join(child.cmdline())
        ]
        random.choice(workers).kill()
    killed, before = time.monotonic(), runs.position(name)
    if victim == "driver":
        process = runs.start(name)
    wait_until(lambda: runs.position(name) > before, process)
    resumed = time.monotonic() - killed
    if process.wait() != 0:
        return resumed, "failed"
    return resumed, runs.weights(name)


def main(options: Options) -> None:
    """Kill, compare, print."""
    random.seed(options.seed)
    runs = Runs(options)
    if runs.start("undisturbed").wait():
        raise SystemExit("the undisturbed run failed: see its log")
    expected = runs.weights("undisturbed")
    print("| killed | after step | s to the next step | same weights |\n|---|---:|---:|---|")
    times: dict[str, list[float]] = {"worker": [], "driver": []}
    equal = 0
    for number in range(options.kills):
        victim = ("worker", "driver")[number % 2]
        moment = random.randrange(1, options.epochs * options.steps - 1)
        seconds, found = disturbed(runs, f"killed-{number}", victim, moment)
        times[victim].append(seconds)
        equal += found == expected
        print(f"| {victim} | {moment} | {seconds:.1f} | {found == expected} |", flush=True)
    print(f"\n{equal} of {options.kills} ended in the undisturbed run's weights ({expected})")
    for victim, values in times.items():
        if values:
            print(f"median time to go on after the {victim}: {statistics.median(values):.1f} s")


if __name__ == "__main__":
    main(tyro.cli(Options))
