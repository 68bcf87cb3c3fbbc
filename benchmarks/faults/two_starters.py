"""Start two drivers of one run at random offsets; count who writes, and what is lost.

Each driver holds the run's lease (`pipeline.cluster.lease`) as training does, and writes numbered
checkpoints, each behind a look at the lease. In half of the rounds the first one is killed
(SIGKILL) midway. A round is right if no two drivers wrote in turns and nothing written is missing.
It runs without Ray, so that twenty rounds take minutes.

With a dataset the drivers are training jobs. A round is then right if the run ends in the weights
of an undisturbed one, when the command is repeated as long as it ends with status 75, and if Ray's
list names the checkpoints that are there.

    python -m benchmarks.faults.two_starters --rounds 20
    python -m benchmarks.faults.two_starters --rounds 20 --dataset demo/dataset
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.faults import kills
from pipeline.cluster import checkpoints, lease

_CHECKPOINTS, _PAUSE_SECONDS = 20, 0.1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How often to start two drivers."""

    rounds: int = 20
    """Half of them with a kill."""
    seed: int = 0
    """Of the offsets."""
    dataset: Path | None = None
    """Of training jobs; by default the drivers hold a lease alone."""
    output: Path = Path("demo/two_starters")
    """Where their runs go."""
    write: Path | None = None
    """Be one of the drivers, of the run in this directory."""


def write(run: Path) -> None:
    """Hold the lease and write checkpoints, named by their number over all drivers."""
    with lease.hold(str(run)) as held:
        for _ in range(_CHECKPOINTS):
            held.check()
            number = len(list(run.glob("checkpoint_*")))
            (run / f"checkpoint_{number:03d}").write_text(held.holder.attempt)
            time.sleep(_PAUSE_SECONDS)


def play(offset: float, kill: bool) -> str:
    """Play one round; say how it went."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "benchmarks.faults.two_starters", "--write", str(run)]
        first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(offset)
        second = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        if kill:
            time.sleep(_CHECKPOINTS * _PAUSE_SECONDS / 2)
            first.kill()
        ends = first.wait(), second.wait()
        files = sorted(run.glob("checkpoint_*"))
        authors = [path.read_text() for path in files]
        turns = sum(a != b for a, b in itertools.pairwise(authors))
        is_right = len(files) >= _CHECKPOINTS * ends.count(0) and turns < max(1, len(set(authors)))
    return f"{'right' if is_right else 'WRONG'}, {sum(end == 0 for end in ends)} finished"


def start_jobs(run: kills.Run, offset: float, kill: bool) -> list[int]:
    """Start a run's job twice, and again while it ends with 75; return the exit statuses."""
    first = run.start()
    time.sleep(offset)
    second = run.start()
    if kill:
        kills.wait_until(lambda: bool(run.checkpoints()), first)
        first.kill()
    ends = [first.wait(), second.wait()]
    while 0 not in ends and len(ends) < 5:
        ends.append(run.start().wait())
    return ends


def judge_jobs(run: kills.Run, ends: list[int], expected: str) -> str:
    """Say how a round of jobs went."""
    present = {path.name for path in run.directory.glob("checkpoint_2*")}
    is_whole = all(checkpoints.is_whole(str(run.directory / name)) for name in present)
    listed = set(checkpoints.metrics_of(str(run.directory)))
    is_right = run.weights() == expected and is_whole and listed == present
    is_right = is_right and {*ends} <= {0, os.EX_TEMPFAIL, -signal.SIGKILL}
    return f"{'right' if is_right else 'WRONG'}, ends {ends}"


def play_jobs(options: Options, dataset: Path) -> None:
    """Play the rounds with training jobs and print each end."""
    draws = random.Random(options.seed)
    jobs = kills.Options(
        dataset=dataset, output=options.output, steps=3, network="timm/test_resnet", workers=1
    )
    jobs.output.mkdir(parents=True, exist_ok=True)
    undisturbed = kills.Run("undisturbed", False, jobs)
    began = time.monotonic()
    if undisturbed.start().wait():
        raise SystemExit("the undisturbed run failed: see its log")
    seconds, expected = time.monotonic() - began, undisturbed.weights()
    for number in range(options.rounds):
        run = kills.Run(f"run-{options.seed}-{number}", False, jobs)
        offset, kill = draws.uniform(0, seconds), bool(number % 2)
        ended = judge_jobs(run, start_jobs(run, offset, kill), expected)
        what = "first one killed" if kill else "undisturbed"
        print(f"{what} after {offset:.1f} s: {ended}", flush=True)


def main(options: Options) -> None:
    """Play the rounds and print how often each end came."""
    if options.dataset is not None:
        play_jobs(options, options.dataset)
        return
    if options.write is not None:
        write(options.write)
        return
    draws, counts = random.Random(options.seed), Counter[str]()
    for number in range(options.rounds):
        kill = bool(number % 2)
        ended = play(draws.uniform(0, 4), kill)
        counts[f"{'first one killed' if kill else 'undisturbed'}: {ended}"] += 1
    for ended, count in sorted(counts.items()):
        print(f"{ended:40} {count:3}")


if __name__ == "__main__":
    main(tyro.cli(Options))
