"""Measure the memory of every process of the jobs with as many images, labels and classes as V3.

Each job runs twice: on a dataset with the numbers of Open Images V3 (`benchmarks.data.full_size`),
and on one with a five-hundredth of the images and as many classes. The bound of a process is its
peak at the small size, a tenth more, and the bytes that what it keeps of the images, labels and
confidences grows by (`terms`, docs/scale.md), so a part that took N x K would stand out. Small
pixels and a small network: neither changes between the sizes.

    python -m benchmarks.compute.memory dataset train evaluate predict candidates --work DIR
    python -m benchmarks.compute.memory shard --work DIR
    python -m benchmarks.compute.memory growth kill table --work DIR

``growth`` trains twenty epochs and compares the worker after the second with the last; ``kill``
ends all processes of a training, or its driver alone, with SIGKILL and lists what is left in
/dev/shm. Results stay in DIR, and ``table`` prints what there is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import tyro

from benchmarks.common.processes import run
from benchmarks.data.full_size import (
    MACHINE,
    V3,
    SplitSize,
    classes_of,
    draw_pictures,
    scaled,
    write_dataset,
)
from benchmarks.data.simulated import simulate_dump
from sharding.image_ids import format_image_ids

Part = Literal[
    "dataset", "shard", "train", "evaluate", "predict", "candidates", "growth", "kill", "table"
]
JOBS = Path(__file__).parents[2] / "jobs"
SMALL = 0.002
_EPOCH = re.compile(r"^epoch (\d+)/\d+: (?!\d+/)", re.MULTILINE)
_RATE = re.compile(r"^epoch \d+/\d+: .* ([\d.]+) image/s", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and where."""

    parts: Annotated[tuple[Part, ...], tyro.conf.Positional]
    """Parts of the measurement, in this order."""
    work: Path
    """Directory for datasets, runs and results; 3 GB at full size."""
    sizes: tuple[Literal["small", "large"], ...] = ("small", "large")
    """Of the datasets that jobs run on."""
    scale: float = 1.0
    """Size of the large dataset as a share of V3."""
    classes: Path | None = None
    """Dump whose class list is taken; by default as many classes as V3 has are made up."""
    workers: int = 1
    """Training processes."""
    backbone: str = "timm/test_resnet"
    """Network."""
    image_size: int = 32
    """Pixels."""
    batch_size: int = 64
    """Images per step."""
    steps: int = 20
    """Of an epoch."""
    pictures: int = 20_000
    """Images that ``shard`` finds of those that the dump labels, at full scale."""


class Bench:
    """Runs parts and keeps their results in the working directory."""

    def __init__(self, options: Options) -> None:
        self.options, self.work = options, options.work.absolute()
        self.work.mkdir(parents=True, exist_ok=True)
        self._file = self.work / "memory.json"
        self.results: dict[str, Any] = {}
        if self._file.exists():
            self.results = json.loads(self._file.read_text())

    @property
    def scales(self) -> dict[str, float]:
        """The sizes that are measured, by name."""
        both = {"small": SMALL, "large": self.options.scale}
        return {size: both[size] for size in self.options.sizes}

    def keep(self, part: str, size: str, result: Any) -> None:
        """Add a result to those on the disk."""
        self.results.setdefault(part, {})[size] = result
        self._file.write_text(json.dumps(self.results, indent=1))

    def sizes(self, size: str) -> dict[str, SplitSize]:
        """Numbers of each split."""
        scale = SMALL if size == "small" else self.options.scale
        return {split: scaled(of, scale) for split, of in V3.items()}

    def job(self, name: str, size: str, **options: object) -> list[str]:
        """Make the command of a job on the dataset of a size."""
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
        return [sys.executable, str(JOBS / f"{name}.py"), *flags]

    def environment(self, size: str) -> dict[str, str]:
        """Environment of a job."""
        return {
            **os.environ,
            "PYTHONPATH": str(JOBS.parent),
            "RAY_ADDRESS": "local",
            "CUDA_VISIBLE_DEVICES": "",
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.work / size}/mlflow.db",
        }

    def measure(self, part: str, command: Callable[[str], list[str]]) -> None:
        """Run a job at both sizes."""
        for size in self.scales:
            log = self.work / size / f"{part}.log"
            roles, seconds = run(command(size), log, self.environment(size))
            rates = _RATE.findall(log.read_text(errors="replace"))
            self.keep(part, size, {"roles": roles, "seconds": seconds, "rates": rates[-3:]})

    def training(self, size: str, name: str, epochs: int, **more: object) -> list[str]:
        """Make the command of a training, which begins anew."""
        options = self.options
        shutil.rmtree(self.work / size / "runs" / name, ignore_errors=True)
        return self.job(
            "train_openimages",
            size,
            dataset=self.work / size / "dataset",
            storage=self.work / size / "runs",
            run=name,
            confidences=MACHINE,
            backbone=options.backbone,
            image_size=options.image_size,
            batch_size=options.batch_size,
            workers=options.workers,
            epochs=epochs,
            max_steps=options.steps,
            **more,
        )


def dataset(bench: Bench) -> None:
    """Write both datasets."""
    for size in bench.scales:
        directory = bench.work / size / "dataset"
        if not (directory / "dataset.json").exists():
            write_dataset(directory, bench.sizes(size), classes_of(bench.options.classes))


def shard(bench: Bench) -> None:
    """Shard a dump whose images are there in part."""
    for size, scale in bench.scales.items():
        _write_dump(bench, bench.work / size / "dump", scale)

    def command(size: str) -> list[str]:
        folder = bench.work / size
        shutil.rmtree(folder / "sharded", ignore_errors=True)
        return bench.job(
            "shard_openimages",
            size,
            annotations=folder / "dump",
            images=folder / "pictures",
            output=folder / "sharded",
        )

    bench.measure("shard", command)


def _write_dump(bench: Bench, folder: Path, scale: float) -> None:
    """Write V3-like labels of the training images, and pictures of a few of them."""
    if folder.exists():
        return
    rng, train = np.random.default_rng(1), scaled(V3["train"], scale)
    mids, names = classes_of(bench.options.classes)
    ids_N = np.unique(rng.integers(0, 2**64 - 1, train.labelled, np.uint64, endpoint=True))
    simulate_dump(folder, ids_N, train.labels / train.labelled, rng, mids)
    (folder / "2017_11/classes-trainable.txt").write_text("".join(f"{mid}\n" for mid in mids))
    rows = (f'{mid},"{name.replace(chr(34), "")}"\n' for mid, name in zip(mids, names, strict=True))
    (folder / "2017_11/class-descriptions.csv").write_text("".join(rows))
    pictures = folder.with_name("pictures") / "train"
    pictures.mkdir(parents=True)
    contents = draw_pictures(rng)
    number = max(100, int(bench.options.pictures * scale))
    for n, name in enumerate(format_image_ids(rng.choice(ids_N, number, replace=False))):
        (pictures / f"{name}.jpg").write_bytes(contents[n % len(contents)])


def train(bench: Bench) -> None:
    """Train two epochs, validation included."""
    bench.measure("train", lambda size: bench.training(size, "train", 2))


def evaluate(bench: Bench) -> None:
    """Evaluate the test split."""
    bench.measure(
        "evaluate",
        lambda size: bench.job(
            "evaluate_openimages",
            size,
            checkpoint=bench.work / size / "runs/train",
            dataset=bench.work / size / "dataset",
        ),
    )


def predict(bench: Bench) -> None:
    """Predict the validation split."""

    def command(size: str) -> list[str]:
        folder = bench.work / size
        shutil.rmtree(folder / "predictions", ignore_errors=True)
        return bench.job(
            "predict_openimages",
            size,
            checkpoint=folder / "runs/train",
            dataset=folder / "dataset",
            split="validation",
            output=folder / "predictions",
        )

    bench.measure("predict", command)


def candidates(bench: Bench) -> None:
    """Export the training's label candidates with their review sheet."""

    def command(size: str) -> list[str]:
        folder = bench.work / size
        shutil.rmtree(folder / "candidates", ignore_errors=True)
        run_directory, output = folder / "runs/train", folder / "candidates"
        return bench.job("export_candidates", size, run=run_directory, output=output)

    bench.measure("candidates", command)


def growth(bench: Bench) -> None:
    """Train twenty epochs and keep the largest size of each process within each."""
    command, log = bench.training("small", "growth", 20), bench.work / "small/growth.log"
    largest: dict[str, dict[str, int]] = {}

    def note(now: Mapping[str, int]) -> None:
        done = _EPOCH.findall(log.read_text(errors="replace"))
        of_epoch = largest.setdefault(str(len(done) + 1), {})
        for role, resident in now.items():
            of_epoch[role] = max(of_epoch.get(role, 0), resident)

    run(command, log, bench.environment("small"), note)
    bench.keep("growth", "small", largest)


def kill(bench: Bench) -> None:
    """Kill a training in two ways and list what stays in /dev/shm."""
    for whom in ("all", "driver"):
        before = set(os.listdir("/dev/shm"))
        log = bench.work / "small" / f"kill-{whom}.log"
        command = bench.training("small", f"kill-{whom}", 1000)
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, env=bench.environment("small"), cwd=log.parent
            )
        while process.poll() is None and not _EPOCH.search(log.read_text(errors="replace")):
            time.sleep(0.5)
        root = psutil.Process(process.pid)
        tree = [*root.children(recursive=True), root]
        during = set(os.listdir("/dev/shm")) - before
        for one in tree if whom == "all" else [root]:
            one.kill()
        process.wait()
        _, alive = psutil.wait_procs(tree, timeout=60)
        left = sorted(set(os.listdir("/dev/shm")) - before)
        found = {"during": sorted(during), "left": left, "alive": len(alive)}
        bench.keep("kill", whom, found)


@dataclass(frozen=True)
class Numbers:
    """Differences of the two sizes.

    Attributes:
        N, E, C: images, labels and confidences of the training split.
        V, VE: images and labels of the validation split.
        T, TE: of the test split.
        A: training images with labels whose pixels ``shard`` does not find.
    """

    N: int
    E: int
    C: int
    V: int
    VE: int
    T: int
    TE: int
    A: int

    @classmethod
    def between(
        cls, small: Mapping[str, SplitSize], large: Mapping[str, SplitSize], pictures: int
    ) -> Numbers:
        """Subtract."""

        def more(split: str, name: str) -> int:
            return int(getattr(large[split], name) - getattr(small[split], name))

        return cls(
            N=more("train", "images"),
            E=more("train", "labels"),
            C=more("train", "confidences"),
            V=more("validation", "images"),
            VE=more("validation", "labels"),
            T=more("test", "images"),
            TE=more("test", "labels"),
            A=more("train", "labelled") - pictures,
        )


ROW_GROUP = 250e6
"""Bytes to decode a row group of a million label rows, or one of confidences, and what of it glibc
keeps."""


READER, READER_OPENED = 330, 220
"""Bytes that DALI's reader takes of an image while it is opened, and until it is closed."""


SET_ASIDE = 700
"""Bytes of a row of the quarantine while it is sorted with the others and written."""


def terms(n: Numbers) -> dict[tuple[str, str], float]:
    """What each process may take more at the large size, in bytes."""
    labels = 40 * n.N + 3 * n.E + ROW_GROUP
    confidences = 9 / 8 * (20 * n.N + 6 * n.C)
    scores = 25 * n.TE
    validated = 120 * n.VE + 40 * n.V + 3 * n.VE + READER * n.V
    return {
        ("shard", "driver"): 96 * n.E + SET_ASIDE * n.A,
        ("shard", "task"): 0,
        ("train", "driver"): labels + confidences,
        # The next epoch's reader is opened before this one's is closed.
        ("train", "worker"): labels + confidences + (READER + READER_OPENED) * n.N + validated,
        ("evaluate", "driver"): 2 * scores + 70 * n.TE,
        ("evaluate", "task"): 40 * n.T + 3 * n.TE + 2 * READER * n.T + 2 * scores,
        ("predict", "driver"): 0,
        ("predict", "task"): 0,
        ("candidates", "driver"): labels + confidences,
    }


def table(bench: Bench) -> None:
    """Print what there is."""
    pictures = int(bench.options.pictures * bench.options.scale)
    numbers = Numbers.between(bench.sizes("small"), bench.sizes("large"), pictures)
    print("| job | process | MB, N / 500 | MB at full size | of these its own | bound |")
    print("|---|---|---:|---:|---:|---:|")
    for job, role, small, large in _rows(bench.results):
        more = terms(numbers).get((job, role), 0)
        bound = small["resident"] * 1.1 + more
        mark = "" if large["resident"] <= bound else " **exceeded**"
        cells = [small["resident"], large["resident"], large["anonymous"], bound]
        print(f"| {job} | {role} | {' | '.join(f'{c / 1e6:,.0f}' for c in cells)}{mark} |")
    for job in ("train", "evaluate", "predict", "candidates", "shard"):
        for size, result in bench.results.get(job, {}).items():
            print(f"{job}, {size}: {result['seconds']:.0f} s; images/s {result['rates']}")
    for size, epochs in bench.results.get("growth", {}).items():
        for role, first in epochs["2"].items():
            last = epochs["20"].get(role, 0)
            print(f"growth, {size}, {role}: {first / 1e6:,.0f} to {last / 1e6:,.0f} MB,", end=" ")
            print(f"{last / first:.3f}")
    for whom, found in bench.results.get("kill", {}).items():
        print(f"killed {whom}: in /dev/shm {found['during']}, left {found['left']}", end=", ")
        print(f"{found['alive']} processes alive")


def _rows(
    results: Mapping[str, Any],
) -> Iterator[tuple[str, str, Mapping[str, int], Mapping[str, int]]]:
    for job in ("shard", "train", "evaluate", "predict", "candidates"):
        sizes = results.get(job, {})
        for role, large in sizes.get("large", {}).get("roles", {}).items():
            small = sizes["small"]["roles"].get(role)
            if small is not None:
                yield job, role, small, large


def main(options: Options) -> None:
    """Run the parts."""
    bench = Bench(options)
    for part in options.parts:
        globals()[part](bench)


if __name__ == "__main__":
    main(tyro.cli(Options))
