"""One to four ranks of one training on this machine: what a rank's step costs more than alone.

Weak scaling: every rank takes the same number of images a step through the network under DDP
(gloo), the global selection of Large Loss, and Adam, one thread each. With fewer cores than ranks
the wall clock says nothing about a cluster, so the figures are CPU time per rank: a step's, what
the sum of all gradients takes by itself, and what the collectives of the selection take. Images
per second are those of ranks with a core each. Ranks that wait for the slowest burn no CPU;
stragglers are not modelled here, and the sums go through the loopback interface.

    python benchmarks/scaling.py --ranks 1 2 3 4 --rounds 5

Rounds are interleaved over the numbers of ranks; each ratio is the median of the per-round ratios.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import tyro

from pipeline import methods
from pipeline import model as models
from pipeline.config import ModelConfig, OptimizerConfig
from pipeline.labeljoin import LabelJoin
from pipeline.loader import Batch
from pipeline.step import TrainStep
from sharding.labels import LabelTable

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tests.distributed import run_ranks


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    ranks: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of ranks; the first is what the others are compared with."""
    backbone: str = "resnet18"
    """Network."""
    image_size: int = 128
    """Pixels."""
    batch_size: int = 16
    """Images per rank and step."""
    classes: int = 5000
    """K."""
    steps: int = 4
    """Steps per round."""
    rounds: int = 5
    """Interleaved rounds."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one rank and step: CPU milliseconds, and bytes handed to collectives for the masks."""

    step_ms: float
    gradients_ms: float
    exchange_bytes: float
    exchange_ms: float
    calls: float


def main(options: Options) -> None:
    """Measure and print."""
    rounds: dict[int, list[Cost]] = {ranks: [] for ranks in options.ranks}
    for _ in range(options.rounds):
        for ranks, found in rounds.items():
            found.append(_slowest(run_ranks(_measured, ranks, options)))
    parameters = sum(p.numel() for p in _network(options).parameters())
    print(
        f"{options.backbone}, {options.image_size} px, {options.batch_size} images per rank, "
        f"K = {options.classes}: {4 * parameters / 1e6:.0f} MB of gradients per step\n"
    )
    print(
        "| ranks | images/s | CPU ms of a rank's step | over one rank "
        "| gradients: MB sent, CPU ms | selection: sums, KB, CPU ms |"
    )
    print("|---:|---:|---:|---:|---|---|")
    alone = rounds[options.ranks[0]]
    for ranks, found in rounds.items():
        over = statistics.median(
            each.step_ms / one.step_ms for each, one in zip(found, alone, strict=True)
        )
        step_ms, gradients_ms, exchange_ms = (
            statistics.median(getattr(each, part) for each in found)
            for part in ("step_ms", "gradients_ms", "exchange_ms")
        )
        sent = 2 * (ranks - 1) / ranks * 4 * parameters  # a ring's
        print(
            f"| {ranks} | {1000 * ranks * options.batch_size / step_ms:.1f} | {step_ms:.0f} "
            f"| {over:.2f} | {sent / 1e6:.0f}, {gradients_ms:.0f} | {found[0].calls:.0f}, "
            f"{found[0].exchange_bytes / 1e3:.1f}, {exchange_ms:.2f} |"
        )


def _slowest(costs: list[Cost]) -> Cost:
    return max(costs, key=lambda cost: cost.step_ms)


def _measured(rank: int, options: Options) -> Cost:
    torch.manual_seed(0)
    batches, join = _data(rank, options)
    step = _step(options, join)
    spent = _watched_sums()
    step(batches[0])  # DDP makes its buckets, Adam its moments
    spent.update(dict.fromkeys(spent, 0.0))
    begun = time.process_time()
    for batch in batches[1:]:
        step(batch)
    each = 1 / options.steps
    step_ms = 1000 * (time.process_time() - begun) * each
    found = dict(spent)
    return Cost(
        step_ms=step_ms,
        gradients_ms=_sum_of_gradients(step.model, options.steps),
        exchange_bytes=found["bytes"] * each,
        exchange_ms=1000 * found["seconds"] * each,
        calls=found["calls"] * each,
    )


def _sum_of_gradients(model: torch.nn.Module, steps: int) -> float:
    """CPU milliseconds of summing all gradients at once over the ranks, gloo's threads included."""
    if dist.get_world_size() == 1:
        return 0.0
    gradients = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))
    begun = time.process_time()
    for _ in range(steps):
        dist.all_reduce(gradients)
    return 1000 * (time.process_time() - begun) / steps


def _watched_sums() -> dict[str, float]:
    """Count what goes through all-reduce from Python: DDP's own gradients do not."""
    spent = {"calls": 0.0, "bytes": 0.0, "seconds": 0.0}
    original = dist.all_reduce

    def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time()
        result = original(tensor, *args, **kwargs)
        spent["seconds"] += time.thread_time() - begun
        spent["calls"] += 1
        spent["bytes"] += tensor.numel() * tensor.element_size()
        return result

    dist.all_reduce = counted
    return spent


def _data(rank: int, options: Options) -> tuple[list[Batch], LabelJoin]:
    """One batch to begin with and ``steps`` to measure, with six labels an image."""
    K, B = options.classes, options.batch_size
    N = (options.steps + 1) * B
    rng = np.random.default_rng(rank)
    lists = [sorted(rng.choice(K, 6, replace=False).tolist()) for _ in range(N)]
    table = LabelTable.from_lists(
        image_ids=[f"{number:016x}" for number in range(N)],
        positives=[row[:3] for row in lists],
        negatives=[row[3:] for row in lists],
    )
    size = (B, options.image_size, options.image_size, 3)
    batches = [
        Batch(
            images_BHWC=torch.randint(0, 256, size, dtype=torch.uint8),
            image_ids_B=table.image_ids_N[begin : begin + B],
        )
        for begin in range(0, N, B)
    ]
    return batches, LabelJoin(table=table, num_classes=K, device=torch.device("cpu"))


def _network(options: Options) -> models.CamNet:
    return models.build(ModelConfig(backbone=options.backbone), options.classes)


def _step(options: Options, join: LabelJoin) -> TrainStep:
    network = _network(options).train()
    model: Any = network
    if dist.get_world_size() > 1:
        model = torch.nn.parallel.DistributedDataParallel(network)
    method = methods.create("ll-r", options.classes, delta_rel=0.2)
    method.begin_epoch(2)  # the first in which Large Loss selects
    return TrainStep(
        model=model,
        method=method,
        optimizer=torch.optim.Adam(models.parameter_groups(network, 1e-5, 10.0)),
        join=join,
        config=OptimizerConfig(),
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
