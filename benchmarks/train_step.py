"""Our training loop against a bare PyTorch loop: same network, same batches, CPU time.

The bare loop is what a paper's repository has: dense float targets at hand, BCE-with-logits,
Adam. Ours looks labels up by image id, applies the method, keeps statistics and the schedule.

    python benchmarks/train_step.py --backbone resnet50 --image-size 224 --classes 5000
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from timing import interleaved, ratio

from pipeline import methods
from pipeline import model as models
from pipeline.config import ModelConfig, OptimizerConfig
from pipeline.labeljoin import LabelJoin
from pipeline.loader import Batch
from pipeline.loop import train_epoch
from pipeline.step import TrainStep
from sharding.labels import LabelTable


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


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    N, K = options.steps * options.batch_size, options.classes
    rng = np.random.default_rng(0)
    lists = [sorted(rng.choice(K, 6, replace=False).tolist()) for _ in range(N)]
    table = LabelTable.from_lists(
        image_ids=[f"{number:016x}" for number in range(N)],
        positives=[row[:3] for row in lists],
        negatives=[row[3:] for row in lists],
    )
    size = (options.batch_size, options.image_size, options.image_size, 3)
    batches = [
        Batch(
            images_BHWC=torch.randint(0, 256, size, dtype=torch.uint8),
            image_ids_B=table.image_ids_N[begin : begin + options.batch_size],
        )
        for begin in range(0, N, options.batch_size)
    ]
    join = LabelJoin(table=table, num_classes=K, device=torch.device("cpu"))
    targets = [(join.dense(batch.image_ids_B) == 1).float() for batch in batches]
    runs = {"bare PyTorch": _bare(options, batches, targets)}
    for name in options.methods:
        runs[f"ours, {name}"] = _ours(options, name, batches, join)
    times = interleaved(runs, options.rounds)
    print(f"{options.backbone}, {options.image_size} px, batch {options.batch_size}, K = {K}\n")
    print("| loop | CPU ms per step | over bare |\n|---|---|---|")
    for name, measured in times.items():
        each = sorted(measured)[len(measured) // 2] / options.steps
        print(f"| {name} | {each:.1f} | {ratio(measured, times['bare PyTorch']):.3f} |")


def _network(options: Options) -> tuple[models.CamNet, torch.optim.Optimizer]:
    model = models.build(ModelConfig(backbone=options.backbone), options.classes)
    return model, torch.optim.Adam(models.parameter_groups(model, 1e-5, 10.0))


def _bare(
    options: Options, batches: list[Batch], targets: list[torch.Tensor]
) -> Callable[[], None]:
    model, optimizer = _network(options)
    model.train()

    def run() -> None:
        for batch, targets_BK in zip(batches, targets, strict=True):
            optimizer.zero_grad(set_to_none=True)
            F.binary_cross_entropy_with_logits(model(batch.images_BHWC), targets_BK).backward()
            optimizer.step()

    return run


def _ours(options: Options, name: str, batches: list[Batch], join: LabelJoin) -> Callable[[], None]:
    model, optimizer = _network(options)
    extra = {"delta_rel": 0.2} if name.startswith("ll-") else {}
    step = TrainStep(
        model=model,
        method=methods.create(name, options.classes, **extra),
        optimizer=optimizer,
        join=join,
        config=OptimizerConfig(),
    )
    step.method.begin_epoch(2)  # the first in which Large Loss selects

    def run() -> None:
        train_epoch(step=step, batches=batches, every=10, on_stats=lambda stats: None)

    return run


if __name__ == "__main__":
    main(tyro.cli(Options))
