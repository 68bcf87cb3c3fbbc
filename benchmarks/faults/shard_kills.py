"""Kill the shard job at random moments (SIGKILL), repeat its command, compare every byte.

One undisturbed job, then one per kill: alternately its driver dies, and the command is repeated,
or one of its workers, and Ray starts another. Moments are uniform from the first file of the
dataset to the end of the undisturbed job. Files are compared by name and SHA-256.

    python -m benchmarks.faults.shard_kills --dump demo/dump --kills 20
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.faults.kills import kill_worker, wait_until

JOB = Path(__file__).parents[2] / "jobs" / "shard_openimages.py"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to shard, and how often to kill."""

    dump: Path
    """Directory of a demo dump (make demo writes demo/dump)."""
    output: Path = Path("demo/shard_kills")
    """Where the datasets go."""
    images_per_shard: int = 20
    """Most images in a shard."""
    kills: int = 20
    """Half of the driver, half of a worker."""
    seed: int = 0
    """Of the moments."""


def start(options: Options, dataset: Path) -> subprocess.Popen[bytes]:
    """Start the job, or repeat its command."""
    arguments = {
        "--annotations": options.dump,
        "--images": options.dump / "images",
        "--output": dataset,
        "--dataset-name": "killed",
        "--images-per-shard": options.images_per_shard,
    }
    with (options.output / f"{dataset.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(JOB), *(str(part) for pair in arguments.items() for part in pair)],
            env={**os.environ, "RAY_ADDRESS": "local"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def until_it_writes(process: subprocess.Popen[bytes], dataset: Path) -> float:
    """Wait for the first file of a dataset; return the time."""
    wait_until(lambda: dataset.is_dir() and any(dataset.iterdir()), process)
    return time.monotonic()


def hashes(dataset: Path) -> dict[str, str]:
    """Hash every file, by path."""
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    return {
        path.relative_to(dataset).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def disturb(options: Options, name: str, victim: str, delay: float) -> str:
    """Kill a job after ``delay`` seconds of writing; say what was finished then."""
    dataset = options.output / name
    process = start(options, dataset)
    until_it_writes(process, dataset)
    time.sleep(delay)
    finished = len(list(dataset.glob("images/*.json")))
    manifest = "manifest" if (dataset / "dataset.json").exists() else f"{finished} shards"
    if victim == "worker" and not kill_worker(process, "ray::"):
        victim = "driver"
    if victim == "driver":
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process = start(options, dataset)
    status = process.wait()
    return f"{victim} | {delay:.2f} | {manifest} | {status}"


def main(options: Options) -> None:
    """Kill, compare, print."""
    draws, equal = random.Random(options.seed), 0
    options.output.mkdir(parents=True, exist_ok=True)
    undisturbed = options.output / f"undisturbed-{options.seed}"
    process = start(options, undisturbed)
    begun = until_it_writes(process, undisturbed)
    if process.wait():
        raise SystemExit("the undisturbed job failed: see its log")
    seconds, expected = time.monotonic() - begun, hashes(undisturbed)
    print("| killed | after s | finished then | exit status | same bytes |")
    print("|---|---:|---|---:|---|", flush=True)
    for number in range(options.kills):
        name, victim = f"killed-{options.seed}-{number}", ("driver", "worker")[number % 2]
        row = disturb(options, name, victim, draws.uniform(0, seconds))
        is_same = hashes(options.output / name) == expected
        equal += is_same
        print(f"| {row} | {is_same} |", flush=True)
    print(f"\n{equal} of {options.kills} jobs made the undisturbed one's {len(expected)} files")


if __name__ == "__main__":
    main(tyro.cli(Options))
