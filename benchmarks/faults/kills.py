"""Kill -9 training at random moments: does it end in the same weights, and how soon does it go on?

One undisturbed run, then one run per kill, alternately of a worker (Ray Train starts the workers
again) and of the driver (the same command is repeated). Checkpoints are written every step, so
that a kill falls within an epoch. Time is from the kill to the checkpoint of the first step after
it. A Ray Train loop that does next to nothing (bare_ray_loop.py) is killed in the same way: its
time is Ray's own, the rest is ours: opening the dataset, building the network, one step.

    python -m benchmarks.faults.kills --dataset demo/dataset --kills 10 --steps 4
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
from datetime import datetime
from pathlib import Path

import psutil
import torch
import tyro

HERE = Path(__file__).parent
JOB = HERE.parents[1] / "jobs" / "train_openimages.py"
PATIENCE = 900
# What was under way at a kill is over by then, and nothing has started again.
SETTLED = 2.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to kill, and how often."""

    dataset: Path
    """Dataset directory (make demo writes demo/dataset)."""
    output: Path = Path("demo/faults")
    """Where the runs go."""
    kills: int = 10
    """Half of them of a worker, half of the driver."""
    bare_kills: int = 4
    """Of the loop that does nothing, likewise."""
    epochs: int = 2
    """Of each run."""
    steps: int = 6
    """Of each epoch."""
    seed: int = 0
    """Of the moments."""


@dataclass(frozen=True)
class Run:
    """One training, or bare loop, that may be started more than once."""

    name: str
    bare: bool
    options: Options

    @property
    def directory(self) -> Path:
        """Where its checkpoints are."""
        return self.options.output / "runs" / self.name

    def start(self) -> subprocess.Popen[bytes]:
        """Begin or continue it."""
        options = self.options
        training = [
            *(str(JOB), "--preset", "demo", "--name", self.name, "--storage", "runs"),
            *("--dataset", str(options.dataset.resolve()), "--epochs", str(options.epochs)),
            *("--max-steps", str(options.steps), "--checkpoint-every", "1"),
        ]
        steps = str(options.epochs * options.steps)
        bare = [str(HERE / "bare_ray_loop.py"), "runs", self.name, steps, "1"]
        with (options.output / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *(bare if self.bare else training)],
                cwd=options.output,
                env={**os.environ, "RAY_ADDRESS": "local", "CUDA_VISIBLE_DEVICES": ""},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def checkpoints(self, since: float = 0.0) -> list[tuple[int, Path]]:
        """(steps done, directory) of the checkpoints that were begun after a time."""
        found = []
        for path in self.directory.glob("checkpoint_2*/meta.json"):
            begun = datetime.strptime(path.parent.name, "checkpoint_%Y-%m-%d_%H-%M-%S.%f")
            if begun.timestamp() > since:
                meta = json.loads(path.read_text() or "{}")
                if meta:
                    steps = meta["epoch"] * self.options.steps + meta["step"]
                    found.append((steps, path.parent))
        return sorted(found)

    def weights(self) -> str:
        """Hash of the weights after the last epoch."""
        last = self.options.epochs * self.options.steps
        for steps, directory in self.checkpoints():
            if steps == last and not self.bare:
                state = torch.load(directory / "model.pt", weights_only=True)
                digest = hashlib.sha256()
                for key in sorted(state):
                    digest.update(state[key].numpy().tobytes())
                return digest.hexdigest()[:16]
        return "unfinished"


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What a kill did.

    Attributes:
        seconds: from the kill to the checkpoint of the first step after it.
        repeated: steps done twice.
        weights: hash of the final ones, or what went wrong.
    """

    seconds: float
    repeated: int
    weights: str


def wait_until(arrived: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll while the process runs."""
    deadline = time.monotonic() + PATIENCE
    while not arrived() and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise SystemExit("a run hangs")
        time.sleep(0.05)


def disturb(run: Run, victim: str, moment: int) -> Disturbance:
    """Start a run, kill the victim after some steps, and let the run end."""
    process = run.start()
    wait_until(lambda: any(steps >= moment for steps, _ in run.checkpoints()), process)
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
    killed, settled = time.monotonic(), time.time() + SETTLED
    if victim == "driver":
        process = run.start()
    time.sleep(SETTLED)
    before = max(steps for steps, _ in run.checkpoints())
    wait_until(lambda: bool(run.checkpoints(settled)), process)
    resumed = time.monotonic() - killed
    first = run.checkpoints(settled)
    if process.wait() != 0 or not first:
        return Disturbance(seconds=resumed, repeated=0, weights="failed")
    return Disturbance(
        seconds=resumed, repeated=max(0, before + 1 - first[0][0]), weights=run.weights()
    )


def disturb_often(options: Options, *, bare: bool, expected: str) -> dict[str, list[Disturbance]]:
    """Kill again and again, print a row each; what came of it by victim."""
    found: dict[str, list[Disturbance]] = {"worker": [], "driver": []}
    for number in range(options.bare_kills if bare else options.kills):
        victim = ("worker", "driver")[number % 2]
        moment = random.randrange(1, options.epochs * options.steps - 1)
        run = Run(f"{'bare' if bare else 'killed'}-{number}", bare, options)
        result = disturb(run, victim, moment)
        found[victim].append(result)
        same = "-" if bare else result.weights == expected
        told = f"{result.seconds:.1f} | {result.repeated} | {same}"
        print(
            f"| {'bare loop' if bare else 'training'} | {victim} | {moment} | {told} |", flush=True
        )
    return found


def main(options: Options) -> None:
    """Kill, compare, print."""
    random.seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    undisturbed = Run("undisturbed", False, options)
    if undisturbed.start().wait():
        raise SystemExit("the undisturbed run failed: see its log")
    expected = undisturbed.weights()
    print("| what | killed | after step | s to the next step | steps repeated | same weights |")
    print("|---|---|---:|---:|---:|---|", flush=True)
    ours = disturb_often(options, bare=False, expected=expected)
    bare = disturb_often(options, bare=True, expected=expected)
    equal = sum(found.weights == expected for some in ours.values() for found in some)
    print(f"\n{equal} of {options.kills} ended in the undisturbed run's weights ({expected})")
    print("\n| killed | s to the next step, median | of a bare Ray Train loop | ours |")
    print("|---|---:|---:|---:|")
    for victim in ours:
        if ours[victim] and bare[victim]:
            whole = statistics.median(found.seconds for found in ours[victim])
            rays = statistics.median(found.seconds for found in bare[victim])
            print(f"| {victim} | {whole:.1f} | {rays:.1f} | {whole - rays:.1f} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
