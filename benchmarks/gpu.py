"""Training on a GPU: images per second of the loader alone, of the network alone, and of both.

Photographs of 1024 x 768 from tars, decoded with DALI's `mixed` decoder (or on the CPU, for
comparison), cut at random to 224 px; a CAM network with BoostLU and Large Loss (LL-R) on bf16,
beside a bare PyTorch loop of the same network with BCE on batches that lie ready. Wall-clock time
of interleaved rounds, medians. `both` over the slower of the two is what the loop leaves of it.

    python benchmarks/gpu.py --backbone resnet50 --batch-size 256
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import loader as loaders
import loops
import torch
import tyro
from photographs import photographs
from timing import interleaved, ratio

from pipeline.config import ModelConfig, OptimizerConfig
from pipeline.loader import Batch

DEVICE = torch.device("cuda", 0)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    backbone: str = "resnet50"
    """Network, from scratch."""
    compile: bool = False
    """torch.compile of the backbone, in both loops."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of both loops."""
    batch_size: int = 256
    """Images per step."""
    classes: int = 5000
    """K."""
    threads: int = 8
    """DALI's, and those that decode where the CPU does."""
    count: int = 256
    """Photographs."""
    tars: int = 16
    """Of all photographs each; together an epoch."""
    rounds: int = 5
    """Interleaved rounds."""


class Bench:
    """Tars, labels, and what is measured on them."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        ids = photographs(folder, options.count)
        jpegs = [(folder / f"{image_id}.jpg").read_bytes() for image_id in ids]
        sizes = loaders.Options(tars=options.tars, workers=options.threads)
        self.work = loaders.Work.of(folder, jpegs, "crop", sizes)
        self.steps = len(self.work.jpegs) // options.batch_size
        self._epochs = itertools.count(1)
        self.ready = list(itertools.islice(self.batches(0), 4))
        network = ModelConfig(backbone=options.backbone, compile=options.compile)
        join = loops.labels(len(jpegs), options.classes, DEVICE)
        config = OptimizerConfig(precision=options.precision)
        self.train = loops.ours(network, "ll-r", join, config)
        self.train_bare = loops.bare(network, self.ready, join, options.precision)

    def batches(self, device_id: int | None) -> Iterable[Batch]:
        """An epoch of our loader."""
        loader = loaders.our_loader(
            self.work, batch_size=self.options.batch_size, device_id=device_id
        )
        return loader.epoch(next(self._epochs))

    def loader(self, device_id: int | None) -> None:
        """The loader alone."""
        for batch in self.batches(device_id):
            last = batch.images_BHWC
        last.sum().item()

    def network(self) -> None:
        """Our loop on batches that lie ready."""
        self.train(itertools.islice(itertools.cycle(self.ready), self.steps))

    def bare(self) -> None:
        """The bare loop on batches that lie ready."""
        self.train_bare(self.steps)

    def both(self, device_id: int | None) -> None:
        """Our loop on what our loader loads."""
        batches = self.batches(device_id)
        if device_id is None:
            batches = (
                Batch(images_BHWC=b.images_BHWC.to(DEVICE), image_ids_B=b.image_ids_B)
                for b in batches
            )
        self.train(batches)


def main(options: Options) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, Path(name))
        runs: dict[str, Callable[[], None]] = {
            "loader alone, decoding on the CPU": lambda: bench.loader(None),
            "loader alone, `mixed`": lambda: bench.loader(0),
            "network alone, bare PyTorch with BCE": bench.bare,
            "network alone, our loop with LL-R": bench.network,
            "both, decoding on the CPU": lambda: bench.both(None),
            "both, `mixed`": lambda: bench.both(0),
        }
        times = interleaved(runs, options.rounds, _seconds)
    peak = torch.cuda.max_memory_allocated() / 1e9
    print(
        f"{torch.cuda.get_device_name(0)}, {options.threads} threads, {options.backbone}, "
        f"{options.precision}{', compiled' if options.compile else ''}, batch "
        f"{options.batch_size}, K = {options.classes}, torch's peak {peak:.1f} GB\n"
    )
    print("| | images/s | ms per step |\n|---|---|---|")
    each = {label: statistics.median(measured) / bench.steps for label, measured in times.items()}
    for label, step in each.items():
        print(f"| {label} | {1000 * options.batch_size / step:,.0f} | {step:.1f} |")
    bare, ours = (
        "network alone, bare PyTorch with BCE",
        "network alone, our loop with LL-R",
    )
    slower = max(each["loader alone, `mixed`"], each[ours])
    print(f"\nboth, `mixed`: {slower / each['both, `mixed`']:.2f} of the slower of the two;")
    print(f"our loop takes {ratio(times[ours], times[bare]):.3f} of the bare loop's time")


def _seconds() -> float:
    """Now, once the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main(tyro.cli(Options))
