"""Kill the shard job at random moments (SIGKILL), repeat its command, compare every byte.

One undisturbed job, then one per kill: alternately its driver dies, and the command is repeated,
or one of its workers, and Ray starts another. Moments are uniform from the first file of a shard
to the manifest of the undisturbed job. Files are compared by name and SHA-256.

    python -m benchmarks.faults.shard_kills --dump demo/dump --kills 20
    python -m benchmarks.faults.shard_kills --dump demo/dump --kills 20 --alone
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
from sharding.commands.options import ShardOptions
from sharding.commands.prepare import prepare
from sharding.commands.shard import shard_dump

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
    """Of the moments, and in the names of the datasets."""
    alone: bool = False
    """Call what the job calls in one process, which is the victim, without Ray."""
    write: Path | None = None
    """Be that process, and write this dataset."""


def start(options: Options, dataset: Path) -> subprocess.Popen[bytes]:
    """Start the job, or repeat its command."""
    dump, most = str(options.dump), str(options.images_per_shard)
    job = [str(JOB), "--annotations", dump, "--images", f"{dump}/images", "--output", str(dataset)]
    job += ["--dataset-name", "killed", "--images-per-shard", most]
    single = ["-m", "benchmarks.faults.shard_kills", "--dump", dump, "--write", str(dataset)]
    single += ["--images-per-shard", most]
    with (options.output / f"{dataset.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *(single if options.alone else job)],
            env={**os.environ, "RAY_ADDRESS": "local"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def until_it_writes(process: subprocess.Popen[bytes], dataset: Path) -> float:
    """Wait for the first file of a shard; return the time."""
    images = dataset / "images"
    wait_until(lambda: images.is_dir() and any(images.iterdir()), process)
    return time.monotonic()


def until_it_is_whole(process: subprocess.Popen[bytes], dataset: Path) -> float:
    """Wait for the manifest; return the time."""
    wait_until((dataset / "dataset.json").is_file, process)
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
    if victim == "worker" and not kill_worker("ray::"):
        victim = "driver"
    if victim == "driver":
        os.kill(process.pid, signal.SIGKILL)
    statuses = [process.wait()]
    while statuses[-1] and len(statuses) < 4:
        statuses.append(start(options, dataset).wait())
    return f"{victim} | {delay:.2f} | {manifest} | {', '.join(map(str, statuses))}"


def write(options: Options, dataset: Path) -> None:
    """Write the dataset as the job does, in this process."""
    job = ShardOptions(
        annotations=options.dump,
        images=str(options.dump / "images"),
        output=str(dataset),
        dataset_name="killed",
        images_per_shard=options.images_per_shard,
    )
    shard_dump(prepare(job), map)


def main(options: Options) -> None:
    """Kill, compare, print."""
    if options.write is not None:
        write(options, options.write)
        return
    draws, equal = random.Random(options.seed), 0
    options.output.mkdir(parents=True, exist_ok=True)
    undisturbed = options.output / f"undisturbed-{options.seed}"
    process = start(options, undisturbed)
    begun = until_it_writes(process, undisturbed)
    seconds = until_it_is_whole(process, undisturbed) - begun
    if process.wait():
        raise SystemExit("the undisturbed job failed: see its log")
    expected = hashes(undisturbed)
    print("| killed | after s | finished then | exit statuses | same bytes |")
    print("|---|---:|---|---:|---|", flush=True)
    for number in range(options.kills):
        name, victim = (
            f"killed-{options.seed}-{number}",
            "worker" if number % 2 and not options.alone else "driver",
        )
        row = disturb(options, name, victim, draws.uniform(0, seconds))
        is_same = hashes(options.output / name) == expected
        equal += is_same
        print(f"| {row} | {is_same} |", flush=True)
    print(f"\n{equal} of {options.kills} jobs made the undisturbed one's {len(expected)} files")


if __name__ == "__main__":
    main(tyro.cli(Options))
