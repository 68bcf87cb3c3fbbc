"""Measure what a step costs one rank: Large Loss under DDP (gloo) with Adam, random images."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.compute.loops import random_batches, random_labels
from pipeline import methods
from pipeline.config.sections import ModelConfig, OptimizerConfig
from pipeline.models import cam_net
from pipeline.training.step import TrainStep


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
    """Cost of one rank's step.

    Attributes:
        step_ms: CPU time.
        wall_ms: time by the wall clock.
        sent_bytes: sent through the interface, headers included; of all ranks where they share it.
        gradients_ms: CPU time of summing all gradients alone.
        exchange_bytes: handed to the collectives of the selection.
        exchange_ms: CPU time of these collectives.
        calls: their number.
    """

    step_ms: float
    wall_ms: float
    sent_bytes: float
    gradients_ms: float
    exchange_bytes: float
    exchange_ms: float
    calls: float


def gradient_bytes(training: Training) -> int:
    """Count the bytes that the ranks sum in every step."""
    return 4 * sum(parameter.numel() for parameter in _network(training).parameters())


def measure_rank(rank: int, training: Training) -> Cost:
    """Take the steps as this rank of a process group."""
    torch.manual_seed(0)
    # One batch to begin with, and those to measure.
    join = random_labels((training.steps + 1) * training.batch_size, training.classes, seed=rank)
    batches = list(map(join, random_batches(join, training.batch_size, training.image_size)))
    step = _step(training)
    spent = _count_sums()
    step(batches[0])  # DDP makes its buckets, Adam its moments
    spent.update(dict.fromkeys(spent, 0.0))
    begun = _clocks()
    for batch in batches[1:]:
        step(batch)
    each = 1 / training.steps
    cpu, wall, sent = (each * (end - begin) for end, begin in zip(_clocks(), begun, strict=True))
    exchanged = dict(spent)  # summing the gradients below counts, too
    return Cost(
        step_ms=1000 * cpu,
        wall_ms=1000 * wall,
        sent_bytes=sent,
        gradients_ms=_sum_of_gradients(step.model, training.steps),
        exchange_bytes=exchanged["bytes"] * each,
        exchange_ms=1000 * exchanged["seconds"] * each,
        calls=exchanged["calls"] * each,
    )


def _clocks() -> tuple[float, float, float]:
    """Read seconds of CPU, seconds by the wall clock, and bytes sent so far."""
    return time.process_time(), time.perf_counter(), _sent_bytes()


def _sent_bytes() -> int:
    """Read the bytes sent so far through the interface that gloo uses.

    From /proc, which shows the network of the process that reads; /sys may show another's.
    """
    counters = dict(
        line.split(":") for line in Path("/proc/net/dev").read_text().splitlines() if ":" in line
    )
    named = {name.strip(): numbers.split() for name, numbers in counters.items()}
    return int(named[os.environ["GLOO_SOCKET_IFNAME"]][8])


def _sum_of_gradients(model: torch.nn.Module, steps: int) -> float:
    """Measure CPU milliseconds of summing all gradients at once, gloo's threads included."""
    if dist.get_world_size() == 1:
        return 0.0
    gradients = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))
    begun = time.process_time()
    for _ in range(steps):
        dist.all_reduce(gradients)
    return 1000 * (time.process_time() - begun) / steps


def _count_sums() -> dict[str, float]:
    """Count what all-reduce is given from Python from now on: DDP's own gradients are not."""
    spent = {"calls": 0.0, "bytes": 0.0, "seconds": 0.0}
    all_reduce = dist.all_reduce

    def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time()
        result = all_reduce(tensor, *args, **kwargs)
        spent["seconds"] += time.thread_time() - begun
        spent["calls"] += 1
        spent["bytes"] += tensor.numel() * tensor.element_size()
        return result

    dist.all_reduce = counted
    return spent


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
