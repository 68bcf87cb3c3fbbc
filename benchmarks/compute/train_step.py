"""Measure our training loop against a bare PyTorch loop: same network and batches, CPU time.

The bare loop is that of a paper's repository: dense float targets, BCE-with-logits, Adam. Ours
looks labels up by image id, applies the method, keeps statistics and the schedule.

    python -m benchmarks.compute.train_step --backbone resnet50 --image-size 224 --classes 5000
    python -m benchmarks.compute.train_step --methods ll-r --precisions fp32 bf16
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from benchmarks.common.timing import interleaved, ratio
from benchmarks.compute import loops
from pipeline.config.sections import ModelConfig, OptimizerConfig, Precision


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    backbone: str = "resnet18"
    """Network."""
    image_size: int = 96
    """Pixels."""
    batch_size: int = 32
    """Images per step."""
    classes: int = 60
    """K."""
    steps: int = 4
    """Steps per round."""
    rounds: int = 9
    """Interleaved rounds."""
    methods: tuple[str, ...] = ("an", "ll-r")
    """Methods of our loop; the bare loop always assumes negative."""
    precisions: tuple[Precision, ...] = ("fp32",)
    """Of our loop; the bare one is fp32."""


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    join = loops.random_labels(options.steps * options.batch_size, options.classes)
    batches = loops.random_batches(join, options.batch_size, options.image_size)
    network = ModelConfig(backbone=options.backbone)
    runs: dict[str, Callable[[], None]] = {
        "bare PyTorch": functools.partial(loops.bare(network, batches, join), options.steps)
    }
    for name, precision in itertools.product(options.methods, options.precisions):
        loop = loops.ours(network, name, join, OptimizerConfig(precision=precision))
        runs[f"ours, {name}, {precision}"] = functools.partial(loop, batches)
    times = interleaved(runs, options.rounds)
    print(
        f"{options.backbone}, {options.image_size} px, batch {options.batch_size}, "
        f"K = {options.classes}\n"
    )
    print("| loop | CPU ms per step | over bare |\n|---|---|---|")
    for name, measured in times.items():
        each = sorted(measured)[len(measured) // 2] / options.steps
        print(f"| {name} | {each:.1f} | {ratio(measured, times['bare PyTorch']):.3f} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
