"""Measure what the label audit costs a training step: collecting candidates beside the loss.

CPU time of `Collector.add` for one batch, in the middle of an epoch, against forward and backward
of the loss of the same batch (a step also runs the network, next to which either is small);
interleaved rounds, median of the per-round ratios. Prints a Markdown table.

    python -m benchmarks.compute.audit --batch 256 --classes 5000 --candidates 1000 --rounds 15
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from benchmarks.common.timing import interleaved, ratio
from benchmarks.compute.losses import make_batch
from pipeline import methods
from pipeline.audit.collector import Collector
from pipeline.data.loader import Batch
from pipeline.methods.protocol import StepResult


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    batch: int = 256
    """Images, B."""
    classes: int = 5000
    """K."""
    observed: int = 6
    """Labels per image."""
    candidates: int = 1000
    """Entries kept."""
    epoch: int = 5
    """Whose selection LL-R makes."""
    rounds: int = 15
    """Interleaved rounds."""


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    logits_BK, labels_BK = make_batch(options.batch, options.classes, options.observed)
    method = methods.create("ll-r", options.classes, delta_rel=0.2)
    method.begin_epoch(options.epoch)
    plain = methods.create("an", options.classes)
    result = StepResult(
        batch=Batch(
            images_BHWC=torch.zeros(options.batch, 1, 1, 3),
            image_ids_B=np.arange(options.batch, dtype=np.uint64),
        ),
        loss=torch.tensor(0.0),
        logits_BK=logits_BK.detach(),
        labels_BK=labels_BK,
        modified_BK=method.loss(logits_BK, labels_BK)[1],
    )
    warm = Collector(options.candidates, torch.device("cpu"))
    warm.add(result)

    def backward(loss_method: methods.Method) -> None:
        loss_method.loss(logits_BK, labels_BK)[0].backward()
        logits_BK.grad = None

    variants = {
        "collect, first step of an epoch": lambda: Collector(
            options.candidates, torch.device("cpu")
        ).add(result),
        "collect, later steps": lambda: warm.add(result),
        "loss an": lambda: backward(plain),
        "loss ll-r": lambda: backward(method),
    }
    times = interleaved(variants, options.rounds)
    print(f"B = {options.batch}, K = {options.classes}, {options.candidates} candidates\n")
    print("| | CPU ms | of the an loss | of the ll-r loss |")
    print("|---|---:|---:|---:|")
    for name, measured in times.items():
        shares = (ratio(measured, times[of]) for of in ("loss an", "loss ll-r"))
        cells = " | ".join(f"{share:.2f}" for share in shares)
        print(f"| {name} | {statistics.median(measured):.1f} | {cells} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
