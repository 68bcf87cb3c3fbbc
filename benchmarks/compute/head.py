"""Measure the CAM head with BoostLU against its bare GEMMs and the reference formulation.

Forward and backward on one CPU thread, then the scores of annotated pairs against the dense head,
in interleaved rounds; each ratio is the median of the per-round ratios of CPU time. Memory is the
most resident memory a step adds, without the three gradients it must make, in copies of the CAM.
Prints Markdown tables.

    python -m benchmarks.compute.head --batch 8 --side 14 --rounds 7
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from benchmarks.common.timing import interleaved, peak_bytes, ratio
from pipeline.models.cam_head import CamHead

ALPHA = 5.0
Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    batch: int = 8
    """Images, B."""
    side: int = 14
    """Of the map: 14 for 448 px."""
    features: int = 2048
    """D."""
    classes: int = 5000
    """K."""
    pairs: int = 10
    """Annotated pairs per image."""
    rounds: int = 7
    """Interleaved rounds."""


def training_steps(
    head: CamHead, features_BDHW: torch.Tensor, upstream_BK: torch.Tensor
) -> dict[str, Step]:
    """Make our training step, the reference's, and the three matrix products alone."""
    inputs = [features_BDHW, *head.parameters()]
    # As the papers' code: default layout, the whole CAM, torch.where, mean.
    plain_BDHW = features_BDHW.detach().contiguous().requires_grad_()

    def reference() -> object:
        cam_BKHW = head.classifier(plain_BDHW)
        logits_BK = torch.where(cam_BKHW > 0, ALPHA * cam_BKHW, cam_BKHW).mean((2, 3))
        return torch.autograd.grad(logits_BK, [plain_BDHW, *head.parameters()], upstream_BK)

    rows_RD = features_BDHW.detach().permute(0, 2, 3, 1).flatten(0, 2)
    weight_KD = head.classifier.weight.detach().flatten(1)
    slope_RK = torch.randn(len(rows_RD), len(weight_KD))

    def products() -> object:
        return rows_RD @ weight_KD.T, slope_RK @ weight_KD, slope_RK.T @ rows_RD

    def ours() -> object:
        return torch.autograd.grad(head(features_BDHW), inputs, upstream_BK)

    return {"ours": ours, "reference": reference, "products": products}


def agreement(ours: Step, reference: Step) -> float:
    """Compute the largest relative norm of a difference of gradients."""
    pairs = zip(ours(), reference(), strict=True)  # type: ignore[call-overload]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def evaluation_steps(
    head: CamHead, features_BDHW: torch.Tensor, pairs_per_image: int
) -> dict[str, Step]:
    """Make calls that score annotated pairs alone, and every class."""
    rows_E = torch.arange(len(features_BDHW)).repeat_interleave(pairs_per_image)
    classes_E = torch.randint(0, head.classifier.out_channels, (len(rows_E),))
    features_BDHW = features_BDHW.detach()

    def dense() -> object:
        cam_BKHW = head.cam(features_BDHW)
        return torch.where(cam_BKHW > 0, ALPHA * cam_BKHW, cam_BKHW).mean((2, 3))

    return {
        "pairs": torch.no_grad()(lambda: head.pair_scores(features_BDHW, rows_E, classes_E)),
        "dense": torch.no_grad()(dense),
    }


def main(options: Options) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    B, D, K, S = options.batch, options.features, options.classes, options.side
    head = CamHead(D, K, alpha_train=ALPHA, alpha_infer=ALPHA)
    features_BDHW = torch.relu(torch.randn(B, D, S, S)).contiguous(
        memory_format=torch.channels_last
    )
    steps = training_steps(head, features_BDHW.requires_grad_(), torch.randn(B, K))
    cam = 4 * B * K * S * S
    gradients = 4 * (features_BDHW.numel() + sum(p.numel() for p in head.parameters()))
    memory = {n: (peak_bytes(steps[n]) - gradients) / cam for n in ("ours", "reference")}
    times = interleaved(steps, options.rounds)
    over_products = {n: ratio(t, times["products"]) for n, t in times.items()}

    print(f"B = {B}, D = {D}, K = {K}, map {S} x {S}, {options.rounds} rounds, 1 thread\n")
    print("| training step | CPU ms | over the three GEMMs | reference over it | extra CAMs |")
    print("|---|---|---|---|---|")
    for name in ("ours", "reference"):
        print(
            f"| {name} | {statistics.median(times[name]):.0f} | {over_products[name]:.2f} "
            f"| {ratio(times['reference'], times[name]):.2f} | {memory[name]:.2f} |"
        )
    difference = agreement(steps["ours"], steps["reference"])
    print(f"\nGradients differ by at most {difference:.1e} of their norm.\n")
    times = interleaved(evaluation_steps(head, features_BDHW, options.pairs), options.rounds)
    print("| evaluation | CPU ms | dense over it |")
    print("|---|---|---|")
    for name in ("pairs", "dense"):
        print(
            f"| {name} | {statistics.median(times[name]):.1f} "
            f"| {ratio(times['dense'], times[name]):.0f} |"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
