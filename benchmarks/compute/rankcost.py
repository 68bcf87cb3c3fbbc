"""What a step costs one rank: Large Loss under DDP (gloo) with Adam, on images made up here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline import methods
from pipeline.config.sections import ModelConfig, OptimizerConfig
from pipeline.data.labels import LabelJoin, LabelledBatch
from pipeline.data.loader import Batch
from pipeline.models import cam_net
from pipeline.training.step import TrainStep
from sharding.labels import LabelTable


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a rank trains."""

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


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one rank and step.

    Attributes:
        step_ms: CPU time.
        wall_ms: time by the wall clock.
        sent_bytes: what left the interface, headers included; of all ranks where they share it.
        gradients_ms: CPU time of the sum of all gradients by itself.
        exchange_bytes: handed to the collectives of the selection.
        exchange_ms: CPU time of these.
        calls: how many these are.
    """

    step_ms: float
    wall_ms: float
    sent_bytes: float
    gradients_ms: float
    exchange_bytes: float
    exchange_ms: float
    calls: float


def gradient_bytes(training: Training) -> int:
    """What the ranks sum in every step."""
    return 4 * sum(parameter.numel() for parameter in _network(training).parameters())


def measured(rank: int, training: Training) -> Cost:
    """Take the steps as this rank; its process group is there."""
    torch.manual_seed(0)
    batches = _data(rank, training)
    step = _step(training)
    spent = _watched_sums()
    step(batches[0])  # DDP makes its buckets, Adam its moments
    spent.update(dict.fromkeys(spent, 0.0))
    begun = _clocks()
    for batch in batches[1:]:
        step(batch)
    each = 1 / training.steps
    cpu, wall, sent = (each * (end - begin) for end, begin in zip(_clocks(), begun, strict=True))
    found = dict(spent)
    return Cost(
        step_ms=1000 * cpu,
        wall_ms=1000 * wall,
        sent_bytes=sent,
        gradients_ms=_sum_of_gradients(step.model, training.steps),
        exchange_bytes=found["bytes"] * each,
        exchange_ms=1000 * found["seconds"] * each,
        calls=found["calls"] * each,
    )


def _clocks() -> tuple[float, float, float]:
    """Seconds of CPU, seconds by the wall clock, and bytes sent so far."""
    return time.process_time(), time.perf_counter(), _sent_bytes()


def _sent_bytes() -> int:
    """What left the interface that gloo uses, so far.

    From /proc, which shows the network of the process that reads; /sys may show another's.
    """
    counters = dict(
        line.split(":") for line in Path("/proc/net/dev").read_text().splitlines() if ":" in line
    )
    named = {name.strip(): numbers.split() for name, numbers in counters.items()}
    return int(named[os.environ["GLOO_SOCKET_IFNAME"]][8])


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


def _data(rank: int, training: Training) -> list[LabelledBatch]:
    """One batch to begin with and ``steps`` to measure, with six labels an image."""
    K, B = training.classes, training.batch_size
    N = (training.steps + 1) * B
    rng = np.random.default_rng(rank)
    lists = [sorted(rng.choice(K, 6, replace=False).tolist()) for _ in range(N)]
    table = LabelTable.from_lists(
        image_ids=[f"{number:016x}" for number in range(N)],
        positives=[row[:3] for row in lists],
        negatives=[row[3:] for row in lists],
    )
    join = LabelJoin(table=table, num_classes=K)
    size = (B, training.image_size, training.image_size, 3)
    return [
        join(
            Batch(
                images_BHWC=torch.randint(0, 256, size, dtype=torch.uint8),
                image_ids_B=table.image_ids_N[begin : begin + B],
            )
        )
        for begin in range(0, N, B)
    ]


def _network(training: Training) -> cam_net.CamNet:
    return cam_net.build(ModelConfig(backbone=training.backbone), training.classes)


def _step(training: Training) -> TrainStep:
    network = _network(training).train()
    model: Any = network
    if dist.get_world_size() > 1:
        model = torch.nn.parallel.DistributedDataParallel(network)
    method = methods.create("ll-r", training.classes, delta_rel=0.2)
    method.begin_epoch(2)  # the first in which Large Loss selects
    return TrainStep(
        model=model,
        method=method,
        optimizer=torch.optim.Adam(cam_net.parameter_groups(network, 1e-5, 10.0)),
        config=OptimizerConfig(),
    )
