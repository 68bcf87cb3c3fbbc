"""Measure what passes between a training command and its first step, by phase and by process.

$ python -m benchmarks.common.startup --dataset demo/dataset --rounds 3
$ python -m benchmarks.common.startup --imports

Walls depend on what else the machine does; the CPU seconds next to them hardly do. `--baseline`
names a checkout of other code, whose commands run in turn with this one's; `--bare` runs a Ray
Train loop of one small layer in turn, whose time is Ray's own. `--imports` prints what each process
imports first, and which packages that time goes to (`-X importtime`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.common.timing import cpu_seconds
from benchmarks.faults import bare_ray_loop
from benchmarks.faults.bare_ray_loop import FIRST_STEP

REPOSITORY = Path(__file__).parents[2]
_WORKERS = "workers to the first step"
_BEFORE = (("imports, dataset, checks", "starting Ray"), ("Ray", "Ray runs"))
_PHASES = (*_BEFORE, ("MLflow run", "starting the workers"), (_WORKERS, "epoch 1/1"))
_BARE_PHASES = (*_BEFORE, (_WORKERS, FIRST_STEP))
"""Name of each phase, and what the line says that ends it."""
_BARE = "bare Ray Train loop"
_ROLES = (
    ("RunWriter", "tracker"),
    ("TrainController", "controller"),
    ("RayTrainWorker", "worker"),
    ("bare_ray_loop.py", "driver"),
    ("ray::IDLE", "idle worker"),
    ("ray::", "other actor"),
    ("train_openimages.py", "driver"),
    ("raylet", "Ray's own"),
    ("gcs_server", "Ray's own"),
    ("ray/", "Ray's own"),
)
_IMPORTS = {
    "driver, before Ray": "pipeline.training.train",
    "driver, meanwhile": "pipeline.methods, pipeline.models.cam_net, torchvision, mlflow.tracking",
    "controller": "ray.train.torch, pipeline.training.train",
    "worker": "pipeline.training.train_loop, torchvision, torch._dynamo, nvidia.dali",
    "tracker": "pipeline.tracking.writer",
    "tracker, first point": "mlflow.tracking",
}
"""Modules by process; an actor imports Ray besides."""
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +([^.\s]+)")


@dataclass
class Start:
    """One start: wall and CPU seconds of each phase, and CPU seconds of each kind of process."""

    walls: dict[str, float] = field(default_factory=dict)
    cpus: dict[str, float] = field(default_factory=dict)
    roles: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class _Tree:
    """CPU seconds of a process and of all that it has started, those that have ended included."""

    def __init__(self, pid: int) -> None:
        self._root, self._spent = psutil.Process(pid), dict[int, tuple[str, float]]()

    def look(self) -> dict[int, tuple[str, float]]:
        with contextlib.suppress(psutil.Error):
            for process in (self._root, *self._root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    spent = times.user + times.system
                    self._spent[process.pid] = (_role(" ".join(process.cmdline())), spent)
        return dict(self._spent)


def _role(command: str) -> str:
    return next((role for word, role in _ROLES if word in command), "other")


def measure(
    command: list[str], phases: Sequence[tuple[str, str]], checkout: Path, storage: Path
) -> Start:
    """Run a training of two steps; stop the clocks when the first is done."""
    ours, theirs = pty.openpty()  # on a terminal the first step shows at once
    process = subprocess.Popen(
        command, env=_environment(checkout, storage), stderr=theirs, stdout=theirs, cwd=storage
    )
    os.close(theirs)
    tree, start, begun, before = _Tree(process.pid), Start(), time.monotonic(), 0.0
    text = _Text(ours)
    for name, mark in phases:
        while not text.has(mark):
            tree.look()
        spent = tree.look()
        cpu = sum(seconds for _, seconds in spent.values())
        start.walls[name], start.cpus[name] = time.monotonic() - begun, cpu - before
        begun, before = time.monotonic(), cpu
    for role, seconds in spent.values():
        start.roles[role] = start.roles.get(role, 0) + seconds
        start.counts[role] = start.counts.get(role, 0) + 1
    while text.read():
        pass
    if process.wait():
        raise SystemExit(f"the training ended with {process.returncode}:\n{text.all}")
    return start


class _Text:
    """What a process writes to its terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self.all = descriptor, ""

    def read(self) -> bool:
        """Wait up to 0.2 s for more; False at the end."""
        if select.select([self._descriptor], [], [], 0.2)[0]:
            try:
                self.all += os.read(self._descriptor, 1 << 16).decode(errors="replace")
            except OSError:
                return False
        return True

    def has(self, mark: str) -> bool:
        if not self.read():
            raise SystemExit(f"the training ended early:\n{self.all}")
        return mark in self.all


def _bare_command(storage: Path) -> list[str]:
    return [sys.executable, bare_ray_loop.__file__, str(storage), f"b{time.monotonic_ns()}", *"20"]


def _command(checkout: Path, dataset: Path, storage: Path, workers: int) -> list[str]:
    options = {
        "preset": "demo",
        "dataset": dataset.absolute(),
        "storage": storage,
        "run": f"start-{time.monotonic_ns()}",
        "workers": workers,
        "epochs": 1,
        "max-steps": 2,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, str(checkout / "jobs/train_openimages.py"), *flags]


def _environment(checkout: Path, storage: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "RAY_ADDRESS": "local",
        "CUDA_VISIBLE_DEVICES": "",
        "MLFLOW_TRACKING_URI": f"sqlite:///{storage}/mlflow.db",
    }


def _table(name: str, starts: list[Start]) -> None:
    """Print medians over rounds."""

    def middle(key: str, part: str) -> float:
        return statistics.median(getattr(start, part).get(key, 0.0) for start in starts)

    print(f"\n{name}: median of {len(starts)}, to the first step")
    print(f"{'phase':28} {'wall s':>8} {'CPU s':>8}")
    for phase in starts[0].walls:
        print(f"{phase:28} {middle(phase, 'walls'):8.1f} {middle(phase, 'cpus'):8.1f}")
    totals = [
        statistics.median(sum(getattr(s, p).values()) for s in starts) for p in ("walls", "cpus")
    ]
    print(f"{'all':28} {totals[0]:8.1f} {totals[1]:8.1f}")
    print(f"{'processes':28} {'number':>8} {'CPU s':>8}")
    for role in sorted({role for start in starts for role in start.roles}):
        print(f"{role:28} {middle(role, 'counts'):8.0f} {middle(role, 'roles'):8.1f}")


def _print_imports() -> None:
    """Print the CPU seconds of each process's imports, and the packages that take most of them."""
    for process, modules in _IMPORTS.items():
        before = cpu_seconds()
        command = [sys.executable, "-X", "importtime", "-c", f"import {modules}"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        taken: Counter[str] = Counter()
        for microseconds, package in _IMPORT.findall(lines):
            taken[package] += int(microseconds)
        shares = [f"{name} {n / taken.total():.0%}" for name, n in taken.most_common(6)]
        print(f"{process:22} {cpu_seconds() - before:5.1f} CPU s: {', '.join(shares)}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, default=Path("demo/dataset"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--baseline", type=Path, help="checkout of other code")
    parser.add_argument("--bare", action="store_true", help="run a bare Ray Train loop as well")
    parser.add_argument("--imports", action="store_true", help="only what is imported")
    options = parser.parse_args()
    if options.imports:
        _print_imports()
        return
    checkouts = {"this code": REPOSITORY}
    if options.baseline:
        checkouts = {"baseline": options.baseline.absolute(), **checkouts}
    starts: dict[str, list[Start]] = {name: [] for name in [*checkouts, *[_BARE] * options.bare]}
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                command = _command(checkout, options.dataset, storage, options.workers)
                starts[name].append(measure(command, _PHASES, checkout, storage))
            if options.bare:
                command = _bare_command(storage)
                starts[_BARE].append(measure(command, _BARE_PHASES, REPOSITORY, storage))
    for name in starts:
        _table(name, starts[name])


if __name__ == "__main__":
    main()
