"""Start two drivers of one run at random offsets; count who writes, and what is lost.

Each driver holds the run's lease (`pipeline.cluster.lease`) as training does, and writes numbered
checkpoints, each behind a look at the lease. In half of the rounds the first one is killed
(SIGKILL) midway. A round is right if no two drivers wrote in turns and nothing written is missing.
It runs without Ray, so that twenty rounds take minutes.

    python -m benchmarks.faults.two_starters --rounds 20
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.cluster import lease

_CHECKPOINTS, _PAUSE_SECONDS = 20, 0.1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How often to start two drivers."""

    rounds: int = 20
    """Half of them with a kill."""
    seed: int = 0
    """Of the offsets."""
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


def main(options: Options) -> None:
    """Play the rounds and print how often each end came."""
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
