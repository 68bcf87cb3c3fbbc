"""Make a bare PyTorch training loop and ours, and batches and labels for both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import methods
from pipeline.config.sections import ModelConfig, OptimizerConfig
from pipeline.data.labels import LabelJoin
from pipeline.data.loader import Batch
from pipeline.models import cam_net
from pipeline.training.loop import EpochHooks, StepPlan, train_epoch
from pipeline.training.step import TrainStep
from sharding.labels import LabelTable

CPU = torch.device("cpu")


def random_labels(images: int, classes: int, seed: int = 0) -> LabelJoin:
    """Draw three positive and three negative labels for each of the images 0, 1, ...

    Their ids are the numbers in hexadecimal.
    """
    rng = np.random.default_rng(seed)
    rows = [sorted(rng.choice(classes, 6, replace=False).tolist()) for _ in range(images)]
    table = LabelTable.from_lists(
        image_ids=[f"{number:016x}" for number in range(images)],
        positives=[row[:3] for row in rows],
        negatives=[row[3:] for row in rows],
    )
    return LabelJoin(table=table, num_classes=classes)


def random_batches(join: LabelJoin, batch_size: int, image_size: int) -> list[Batch]:
    """Draw pixels for all images of `random_labels`, in batches of one size."""
    ids_N, size = join.table.image_ids_N, (batch_size, image_size, image_size, 3)
    return [
        Batch(
            images_BHWC=torch.randint(0, 256, size, dtype=torch.uint8),
            image_ids_B=ids_N[begin : begin + batch_size],
        )
        for begin in range(0, len(ids_N), batch_size)
    ]


def bare(
    network: ModelConfig, batches: Sequence[Batch], join: LabelJoin, precision: str = "fp32"
) -> Callable[[int], None]:
    """Make the loop of a paper's repository: dense float targets, BCE-with-logits, Adam.

    Returns:
        A call that trains for a number of steps, over the batches again and again.
    """
    device = batches[0].images_BHWC.device
    model, optimizer = _model(network, join.num_classes, device)
    targets = [(join(batch).dense() == 1).float() for batch in batches]
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def run(steps: int) -> None:
        for number in range(steps):
            images_BHWC = batches[number % len(batches)].images_BHWC
            optimizer.zero_grad(set_to_none=True)
            with mixed:
                logits_BK = model(images_BHWC)
            targets_BK = targets[number % len(batches)]
            F.binary_cross_entropy_with_logits(logits_BK.float(), targets_BK).backward()
            optimizer.step()

    return run


def ours(
    network: ModelConfig,
    name: str,
    join: LabelJoin,
    config: OptimizerConfig | None = None,
    device: torch.device = CPU,
) -> Callable[[Iterable[Batch]], None]:
    """Make our loop with a method, in the first epoch in which Large Loss selects.

    Returns:
        A call that trains on batches.
    """
    model, optimizer = _model(network, join.num_classes, device)
    extra = {"delta_rel": 0.2} if name.startswith("ll-") else {}
    step = TrainStep(
        model=model,
        method=methods.create(name, join.num_classes, **extra),
        optimizer=optimizer,
        config=config or OptimizerConfig(),
    )
    step.method.begin_epoch(2)
    plan, hooks = StepPlan(stats_every=10), EpochHooks()
    return lambda batches: train_epoch(step, map(join, batches), plan, hooks)


def _model(
    network: ModelConfig, num_classes: int, device: torch.device
) -> tuple[cam_net.CamNet, torch.optim.Optimizer]:
    model = cam_net.build(network, num_classes).to(device).train()
    groups = cam_net.parameter_groups(model, 1e-5, 10.0)
    return model, torch.optim.Adam(groups, fused=device.type == "cuda")
