"""Kill training at random moments (SIGKILL); compare final weights and measure time to resume.

One undisturbed run, then one run per kill, alternately of a worker (Ray Train starts the workers
again) and of the driver (the same command is repeated). Checkpoints are written every step, so
that a kill falls within an epoch. Time is from the kill to the checkpoint of the first step after
it. A Ray Train loop that does next to nothing (bare_ray_loop.py) is killed in the same way: its
time is that of Ray, the rest is ours: opening the dataset, building the network, one step.

    python -m benchmarks.faults.kills --dataset demo/dataset --kills 10 --steps 4
"""

from __future__ import annotations

import contextlib
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
import tyro

BARE_LOOP = Path(__file__).parent / "bare_ray_loop.py"
JOB = Path(__file__).parents[2] / "jobs" / "train_openimages.py"
TIMEOUT_SECONDS = 900
# After a kill: pending uploads have ended by then, and nothing has restarted.
SETTLE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to kill, and how often."""

    dataset: Path
    """Dataset directory (make demo writes demo/dataset)."""
    output: Path = Path("demo/faults")
    """Where the runs go."""
    kills: int = 10
    """Half of a worker, half of the driver."""
    bare_kills: int = 4
    """Of the bare loop, likewise."""
    epochs: int = 2
    """Of each run."""
    steps: int = 6
    """Of each epoch."""
    seed: int = 0
    """Of the moments, and in the names of the runs; another one adds runs to the same output."""
    network: str = "resnet18"
    """Backbone; timm/test_resnet computes a ninth as long."""
    workers: int = 2
    """Of each run."""
    shared_ray: bool = False
    """Let all runs join one Ray instead of starting their own, which is quicker."""


@dataclass(frozen=True)
class Run:
    """One training, or bare loop, that may be started more than once."""

    name: str
    bare: bool
    options: Options

    @property
    def directory(self) -> Path:
        """Return the directory of its checkpoints."""
        return self.options.output / "runs" / self.name

    def start(self) -> subprocess.Popen[bytes]:
        """Start or resume it."""
        options = self.options
        training = [
            *(str(JOB), "--preset", "demo", "--name", self.name, "--storage", "runs"),
            *("--dataset", str(options.dataset.resolve()), "--epochs", str(options.epochs)),
            *("--max-steps", str(options.steps), "--checkpoint-every", "1"),
            *("--backbone", options.network, "--workers", str(options.workers)),
        ]
        steps = str(options.epochs * options.steps)
        bare = [str(BARE_LOOP), "runs", self.name, steps, "1"]
        with (options.output / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *(bare if self.bare else training)],
                cwd=options.output,
                env={"RAY_ADDRESS": "local", **os.environ, "CUDA_VISIBLE_DEVICES": ""},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def checkpoints(self, since: float = 0.0) -> list[tuple[int, Path]]:
        """List (steps done, directory) of the checkpoints that were begun after a time."""
        checkpoints = []
        for path in self.directory.glob("checkpoint_2*/meta.json"):
            begun = datetime.strptime(path.parent.name, "checkpoint_%Y-%m-%d_%H-%M-%S.%f")
            if begun.timestamp() > since:
                meta = json.loads(path.read_text() or "{}")
                if meta:
                    steps = meta["epoch"] * self.options.steps + meta["step"]
                    checkpoints.append((steps, path.parent))
        return sorted(checkpoints)

    def weights(self) -> str:
        """Hash the weights after the last epoch."""
        import torch

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
    """The outcome of a kill.

    Attributes:
        seconds: from the kill to the checkpoint of the first step after it.
        repeated: steps done twice.
        weights: hash of the final ones, "failed" or "unfinished".
    """

    seconds: float
    repeated: int
    weights: str


def wait_until(arrived: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll while the process runs."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not arrived() and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            raise SystemExit("a run hangs")
        time.sleep(0.05)


def kill_worker(name: str) -> bool:
    """Kill a process below this one whose command contains ``name``, if there is one."""
    workers = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            workers += [child] * (name in " ".join(child.cmdline()))
    if workers:
        random.choice(workers).kill()
    return bool(workers)


def disturb(run: Run, victim: str, moment: int) -> Disturbance:
    """Start a run, kill the victim after some steps, and let the run end."""
    process = run.start()
    wait_until(lambda: any(steps >= moment for steps, _ in run.checkpoints()), process)
    time.sleep(random.uniform(0, 0.3))  # within the next step, upload or snapshot
    if victim == "driver":
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    else:
        kill_worker("RayTrainWorker")
    killed, settled = time.monotonic(), time.time() + SETTLE_SECONDS
    if victim == "driver":
        process = run.start()
    time.sleep(SETTLE_SECONDS)
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
    """Kill many runs and print a row each; returns the outcomes by victim."""
    outcomes: dict[str, list[Disturbance]] = {"worker": [], "driver": []}
    for number in range(options.bare_kills if bare else options.kills):
        victim = ("worker", "driver")[number % 2]
        moment = random.randrange(1, options.epochs * options.steps - 1)
        run = Run(f"{'bare' if bare else 'killed'}-{options.seed}-{number}", bare, options)
        result = disturb(run, victim, moment)
        outcomes[victim].append(result)
        same = "-" if bare else result.weights == expected
        cells = f"{result.seconds:.1f} | {result.repeated} | {same}"
        print(
            f"| {'bare loop' if bare else 'training'} | {victim} | {moment} | {cells} |", flush=True
        )
    return outcomes


def main(options: Options) -> None:
    """Kill, compare, print."""
    random.seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.shared_ray:
        import ray

        cpus = 2 * options.workers + 1
        context = ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False)
        os.environ["RAY_ADDRESS"] = context.address_info["gcs_address"]
    undisturbed = Run("undisturbed", False, options)
    if undisturbed.start().wait():
        raise SystemExit("the undisturbed run failed: see its log")
    expected = undisturbed.weights()
    print("| what | killed | after step | s to the next step | steps repeated | same weights |")
    print("|---|---|---:|---:|---:|---|", flush=True)
    ours = disturb_often(options, bare=False, expected=expected)
    bare = disturb_often(options, bare=True, expected=expected)
    equal = sum(kill.weights == expected for kills in ours.values() for kill in kills)
    print(f"\n{equal} of {options.kills} ended in the undisturbed run's weights ({expected})")
    print("\n| killed | s to the next step, median | of a bare Ray Train loop | ours |")
    print("|---|---:|---:|---:|")
    for victim in ours:
        if ours[victim] and bare[victim]:
            ours_s = statistics.median(kill.seconds for kill in ours[victim])
            bare_s = statistics.median(kill.seconds for kill in bare[victim])
            print(f"| {victim} | {ours_s:.1f} | {bare_s:.1f} | {ours_s - bare_s:.1f} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
