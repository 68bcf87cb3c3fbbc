"""Measure training on a GPU: images per second of the loader, of the network, and of both.

Photographs of 1024 x 768 from tars, decoded with DALI's `mixed` decoder (or on the CPU, for
comparison), cut at random to 224 px or squashed to 448; a CAM network with BoostLU and Large Loss
(LL-R) on bf16, beside a bare PyTorch loop of the same network with BCE, on batches made
beforehand. Wall-clock time of interleaved rounds, medians; the last lines compare `both` with the
slower of its parts. An epoch lasts longer than the rounds, so that a pipeline's start of seconds
is not counted; the two batches that it has prefetched when a round begins are.

    python -m benchmarks.compute.gpu --backbone resnet50 --batch-size 256
    python -m benchmarks.compute.gpu --task squash --batch-size 36 --hardware-share 1
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from benchmarks.common.photographs import photographs
from benchmarks.common.timing import interleaved, ratio
from benchmarks.compute import loops
from benchmarks.data import loader as loaders
from pipeline.config.sections import HARDWARE_SHARE, ModelConfig, OptimizerConfig
from pipeline.data.loader import Batch

DEVICE = torch.device("cuda", 0)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    backbone: str = "resnet50"
    """Network, from scratch."""
    method: str = "ll-r"
    """Loss of our loop; with an, whose loss is BCE, both loops do the same work."""
    task: loaders.Task = "crop"
    """crop: 224 px random-resized; squash: 448 px."""
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
    hardware_share: float = HARDWARE_SHARE
    """Of the photographs that the GPU's own decoder takes."""
    count: int = 256
    """Photographs."""
    tars: int = 4
    """Of all photographs each, read again and again."""
    steps: int = 40
    """Batches a round."""
    rounds: int = 5
    """Interleaved rounds."""


class Bench:
    """Tars, labels, and the loops measured on them."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        ids = photographs(folder, options.count)
        jpegs = [(folder / f"{image_id}.jpg").read_bytes() for image_id in ids]
        sizes = loaders.Options(tars=options.tars, workers=options.threads)
        work = loaders.Work.of(folder, jpegs, options.task, sizes)
        images = (options.rounds + 2) * (options.steps + 4) * options.batch_size
        repeats = -(-images // len(work.jpegs))
        self.work = dataclasses.replace(work, tars=work.tars * repeats, jpegs=work.jpegs * repeats)
        self.ready = list(itertools.islice(self.batches(0), 4))
        network = ModelConfig(backbone=options.backbone, compile=options.compile)
        join = loops.random_labels(len(jpegs), options.classes)
        config = OptimizerConfig(precision=options.precision)
        self.train = loops.ours(network, options.method, join, config, DEVICE)
        self.train_bare = loops.bare(network, self.ready, join, options.precision)

    def batches(self, device_id: int | None) -> Iterator[Batch]:
        """Load more batches than all rounds take with our loader."""
        loader = loaders.our_loader(
            self.work, batch_size=self.options.batch_size, device_id=device_id
        )
        loader = dataclasses.replace(loader, hardware_share=self.options.hardware_share)
        for batch in loader.epoch(1):
            images_BHWC = batch.images_BHWC.to(DEVICE)
            yield dataclasses.replace(batch, images_BHWC=images_BHWC)

    def loader(self, device_id: int | None) -> Callable[[], None]:
        """Make a call that runs the loader alone."""
        batches = self.batches(device_id)

        def run() -> None:
            for batch in itertools.islice(batches, self.options.steps):
                last = batch.images_BHWC
            last.sum().item()

        return run

    def network(self) -> None:
        """Run our loop on batches made beforehand."""
        self.train(itertools.islice(itertools.cycle(self.ready), self.options.steps))

    def bare(self) -> None:
        """Run the bare loop on batches made beforehand."""
        self.train_bare(self.options.steps)

    def both(self, device_id: int | None) -> Callable[[], None]:
        """Make a call that runs our loop on our loader's batches."""
        batches = self.batches(device_id)
        return lambda: self.train(itertools.islice(batches, self.options.steps))


def main(options: Options) -> None:
    """Measure and print."""
    bare = "network alone, bare PyTorch with BCE"
    ours = f"network alone, our loop with {options.method}"
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, Path(name))
        runs: dict[str, Callable[[], None]] = {
            "loader alone, decoding on the CPU": bench.loader(None),
            "loader alone, `mixed`": bench.loader(0),
            bare: bench.bare,
            ours: bench.network,
            "both, decoding on the CPU": bench.both(None),
            "both, `mixed`": bench.both(0),
        }
        times = interleaved(runs, options.rounds, _seconds)
    peak = torch.cuda.max_memory_allocated() / 1e9
    print(
        f"{torch.cuda.get_device_name(0)}, {options.threads} threads, {options.backbone}, "
        f"{options.precision}{', compiled' if options.compile else ''}, batch "
        f"{options.batch_size}, K = {options.classes}, torch's peak {peak:.1f} GB\n"
    )
    print("| | images/s | ms per step |\n|---|---|---|")
    each = {label: statistics.median(ms) / options.steps for label, ms in times.items()}
    for label, step in each.items():
        print(f"| {label} | {1000 * options.batch_size / step:,.0f} | {step:.1f} |")
    slower = max(each["loader alone, `mixed`"], each[ours])
    print(f"\nboth, `mixed`: {slower / each['both, `mixed`']:.2f} of the slower of the two;")
    print(f"our loop takes {ratio(times[ours], times[bare]):.3f} of the bare loop's time")


def _seconds() -> float:
    """Read the clock once the GPU has finished its work."""
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main(tyro.cli(Options))
