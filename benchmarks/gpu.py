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
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from photographs import photographs

from pipeline import methods
from pipeline import model as models
from pipeline.config import ModelConfig, OptimizerConfig
from pipeline.graph import Augmentation
from pipeline.labeljoin import LabelJoin
from pipeline.loader import Batch, Loader
from pipeline.loop import train_epoch
from pipeline.step import TrainStep
from sharding.labels import LabelTable

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
        sizes = loaders.Options(tars=options.tars)
        self.work = loaders.Work.of(folder, jpegs, "crop", sizes)
        self.images = len(self.work.jpegs) // options.batch_size * options.batch_size
        rng = np.random.default_rng(0)
        lists = [sorted(rng.choice(options.classes, 6, replace=False).tolist()) for _ in jpegs]
        table = LabelTable.from_lists(
            image_ids=[f"{number:016x}" for number in range(len(jpegs))],
            positives=[row[:3] for row in lists],
            negatives=[row[3:] for row in lists],
        )
        self.join = LabelJoin(table=table, num_classes=options.classes, device=DEVICE)
        self._epochs = itertools.count(1)
        self.ready = list(itertools.islice(self.batches(0), 4))
        self.step = self._step()
        self.bare_model, self.bare_optimizer = self._network()

    def batches(self, device_id: int | None) -> Iterable[Batch]:
        """An epoch of our loader."""
        return Loader(
            tars=self.work.tars,
            indexes=self.work.indexes,
            counts=[self.options.count] * self.options.tars,
            batch_size=self.options.batch_size,
            image_size=224,
            threads=self.options.threads,
            train=True,
            augmentation=Augmentation(crop="random-resized"),
            device_id=device_id,
        ).epoch(next(self._epochs))

    def loader(self, device_id: int | None) -> None:
        """The loader alone."""
        for batch in self.batches(device_id):
            last = batch.images_BHWC
        last.sum().item()

    def network(self) -> None:
        """Our loop on batches that lie ready."""
        steps = self.images // self.options.batch_size
        self._train(itertools.islice(itertools.cycle(self.ready), steps))

    def both(self, device_id: int | None) -> None:
        """Our loop on what our loader loads."""
        batches = self.batches(device_id)
        if device_id is None:
            batches = (
                Batch(images_BHWC=b.images_BHWC.to(DEVICE), image_ids_B=b.image_ids_B)
                for b in batches
            )
        self._train(batches)

    def bare(self) -> None:
        """What a paper's repository has, on batches that lie ready."""
        mixed = torch.autocast("cuda", torch.bfloat16, enabled=self.options.precision == "bf16")
        targets = [(self.join.dense(batch.image_ids_B) == 1).float() for batch in self.ready]
        for number in range(self.images // self.options.batch_size):
            images_BHWC = self.ready[number % len(self.ready)].images_BHWC
            self.bare_optimizer.zero_grad(set_to_none=True)
            with mixed:
                logits_BK = self.bare_model(images_BHWC)
            targets_BK = targets[number % len(targets)]
            F.binary_cross_entropy_with_logits(logits_BK.float(), targets_BK).backward()
            self.bare_optimizer.step()

    def _train(self, batches: Iterable[Batch]) -> None:
        train_epoch(step=self.step, batches=batches, every=10, on_stats=lambda stats: None)

    def _network(self) -> tuple[models.CamNet, torch.optim.Optimizer]:
        config = ModelConfig(backbone=self.options.backbone, compile=self.options.compile)
        model = models.build(config, self.options.classes).to(DEVICE).train()
        return model, torch.optim.Adam(models.parameter_groups(model, 1e-5, 10.0), fused=True)

    def _step(self) -> TrainStep:
        model, optimizer = self._network()
        step = TrainStep(
            model=model,
            method=methods.create("ll-r", self.options.classes, delta_rel=0.2),
            optimizer=optimizer,
            join=self.join,
            config=OptimizerConfig(precision=self.options.precision),
        )
        step.method.begin_epoch(2)  # the first in which Large Loss selects
        return step


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
        seconds = _interleaved(runs, options.rounds)
    peak = torch.cuda.max_memory_allocated() / 1e9
    print(
        f"{torch.cuda.get_device_name(0)}, {options.threads} threads, {options.backbone}, "
        f"{options.precision}{', compiled' if options.compile else ''}, batch "
        f"{options.batch_size}, K = {options.classes}, torch's peak {peak:.1f} GB\n"
    )
    print("| | images/s | ms per step |\n|---|---|---|")
    rates = {}
    for label, each in seconds.items():
        rates[label] = bench.images / statistics.median(each)
        print(f"| {label} | {rates[label]:,.0f} | {1000 * options.batch_size / rates[label]:.1f} |")
    slower = min(rates["loader alone, `mixed`"], rates["network alone, our loop with LL-R"])
    print(f"\nboth, `mixed`: {rates['both, `mixed`'] / slower:.2f} of the slower of the two;")
    over = (
        rates["network alone, bare PyTorch with BCE"] / rates["network alone, our loop with LL-R"]
    )
    print(f"our loop takes {over:.3f} of the bare loop's time")


def _interleaved(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Wall-clock seconds of each, after one warm-up round."""
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for number in range(rounds + 1):
        for label, run in runs.items():
            torch.cuda.synchronize()
            begun = time.perf_counter()
            run()
            torch.cuda.synchronize()
            if number:
                seconds[label].append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    main(tyro.cli(Options))
