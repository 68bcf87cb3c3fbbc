"""What the label audit costs a training step: collecting candidates beside the loss alone.

CPU time of `Collector.add` for one batch, in the middle of an epoch, against forward and backward
of the loss of the same batch (a step also runs the network, next to which either is small);
interleaved rounds, median of the per-round ratios. Prints a Markdown table.

    python -m benchmarks.compute.audit --batch 256 --classes 5000 --candidates 1000 --rounds 15
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch

from benchmarks.common.timing import interleaved, ratio
from benchmarks.compute.losses import make_batch
from pipeline import methods
from pipeline.audit.collector import Collector
from pipeline.data.loader import Batch
from pipeline.methods.protocol import StepResult


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=256, help="images")
    parser.add_argument("--classes", type=int, default=5000)
    parser.add_argument("--observed", type=int, default=6, help="labels per image")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--epoch", type=int, default=5, help="whose selection ll-r makes")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
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

    def backward(of: methods.Method) -> None:
        of.loss(logits_BK, labels_BK)[0].backward()
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
    for name, found in times.items():
        shares = (ratio(found, times[of]) for of in ("loss an", "loss ll-r"))
        cells = " | ".join(f"{share:.2f}" for share in shares)
        print(f"| {name} | {statistics.median(found):.1f} | {cells} |")


if __name__ == "__main__":
    main()
