"""Measure the large-loss methods against plain cross-entropy, the papers' code and a whole step.

Forward and backward of one batch on one CPU thread, in interleaved rounds; each ratio is the
median of the per-round ratios of CPU time. Memory is the most resident memory a step adds, in
matrices of B x K floats (the gradient of the logits is one). The last column is the loss's share
of a training step of a ResNet-50 on as many images of 224 pixels, which is measured on a few.
Prints a Markdown table.

A second table counts the bytes that the ranks of a shared batch exchange for its masks, against
gathering the losses themselves.

    python -m benchmarks.compute.losses --batch 256 --classes 5000 --rounds 15
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import tyro

from benchmarks.common.timing import interleaved, peak_bytes, ratio
from benchmarks.compute import loops
from pipeline import methods
from pipeline.config.sections import ModelConfig
from tests.support.distributed import run_ranks

Step = Callable[[], object]


# (method, epoch) of both tables.
COMPARED = (("an", 1), ("ll-r", 2), ("ll-r", 10), ("ll-ct", 10), ("ll-cp", 2))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    batch: int = 256
    """Images, B."""
    classes: int = 5000
    """K."""
    observed: int = 10
    """Annotations per image."""
    delta_rel: float = 0.5
    """Percent per epoch."""
    rounds: int = 15
    """Interleaved rounds."""
    ranks: int = 4
    """Ranks, for the bytes exchanged."""
    step_batch: int = 8
    """Images of a ResNet-50 step, for the share of the loss."""


def reference(
    logits_BK: torch.Tensor, labels_BK: torch.Tensor, k: int, scheme: str
) -> torch.Tensor:
    """Compute the loss as the papers' code does: two loss matrices, top-k of all entries, where."""
    target_BK = (labels_BK == 1).float()
    unobserved_BK = (labels_BK == -1).float()
    loss_BK = F.binary_cross_entropy_with_logits(logits_BK, target_BK, reduction="none")
    if k == 0:
        return loss_BK.mean()
    corrected_BK = F.binary_cross_entropy_with_logits(
        logits_BK, torch.logical_not(target_BK).float(), reduction="none"
    )
    unobserved_loss_BK = unobserved_BK * loss_BK
    threshold = torch.topk(unobserved_loss_BK.flatten(), k).values[-1]
    other_BK = torch.zeros_like(loss_BK) if scheme == "ll-r" else corrected_BK
    return torch.where(unobserved_loss_BK < threshold, loss_BK, other_BK).mean()


def make_batch(B: int, K: int, observed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw logits as of a trained model and ``observed`` labels per image, a third positive."""
    torch.manual_seed(0)
    logits_BK = (torch.randn(B, K) * 2 - 5).requires_grad_()
    labels_BK = torch.full((B, K), -1, dtype=torch.int8)
    classes_BO = torch.rand(B, K).topk(observed).indices
    labels_BK.scatter_(1, classes_BO, (torch.rand(B, observed) < 0.33).to(torch.int8))
    return logits_BK, labels_BK


def step(logits_BK: torch.Tensor, loss: Callable[[], torch.Tensor]) -> Step:
    """Make a call that runs a loss and its backward pass to the gradient of the logits."""

    def run() -> None:
        torch.autograd.grad(loss(), logits_BK)

    return run


def make_method(name: str, epoch: int, options: Options) -> Any:
    """Create a method and enter an epoch."""
    more = {} if name == "an" else {"delta_rel": options.delta_rel}
    method = methods.create(name, options.classes, **more)
    method.begin_epoch(epoch)
    return method


def selected(method: Any, options: Options) -> int:
    """Read k of a method, 0 where it selects nothing."""
    return method.k(options.batch * options.classes) if hasattr(method, "k") else 0


def training_step_ms(options: Options) -> float:
    """Measure the CPU time per image of a ResNet-50 training step at 224 pixels."""
    B = options.step_batch
    join = loops.random_labels(B, options.classes)
    batches = loops.random_batches(join, B, image_size=224)
    run = functools.partial(loops.bare(ModelConfig(backbone="resnet50"), batches, join), 1)
    return statistics.median(interleaved({"step": run}, rounds=3)["step"]) / B


def print_times(options: Options) -> None:
    """Print time and memory of each method against plain cross-entropy and the papers' code."""
    B, K = options.batch, options.classes
    logits_BK, labels_BK = make_batch(B, K, options.observed)
    target_BK, ids_B = labels_BK.clamp(0, 1).float(), torch.arange(B)
    plain = step(logits_BK, lambda: F.binary_cross_entropy_with_logits(logits_BK, target_BK))
    cases = []
    for name, epoch in COMPARED:
        method = make_method(name, epoch, options)
        run = step(logits_BK, lambda m=method: m.loss(logits_BK, labels_BK, ids_B)[0])
        cases.append((name, epoch, selected(method, options), run, peak_bytes(run) / (4 * B * K)))
    plain_memory = peak_bytes(plain) / (4 * B * K)
    step_ms = B * training_step_ms(options)
    print(f"B = {B}, K = {K}, delta_rel = {options.delta_rel:g} %, {options.rounds} rounds")
    print(f"1 thread; a training step of a ResNet-50 takes {step_ms / 1000:.1f} s\n")
    print(
        "| method | epoch | k | CPU ms | over plain BCE | over reference | matrices | of a step |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print(f"| plain BCE, targets ready | - | - | - | 1.00 | - | {plain_memory:.2f} | - |")
    for name, epoch, k, run, memory in cases:
        written_out = step(logits_BK, functools.partial(reference, logits_BK, labels_BK, k, name))
        variants = {"ours": run, "plain": plain, "reference": written_out}
        times = interleaved(variants, options.rounds)
        ours_ms = statistics.median(times["ours"])
        print(
            f"| {name} | {epoch} | {k} | {ours_ms:.1f} "
            f"| {ratio(times['ours'], times['plain']):.2f} "
            f"| {ratio(times['ours'], times['reference']):.2f} | {memory:.2f} "
            f"| {ours_ms / step_ms:.3%} |"
        )


def print_bytes(options: Options) -> None:
    """Print what ranks exchange in one step of each method."""
    print(f"\nOne step of the same batch over {options.ranks} ranks (gloo):\n")
    print("| method | epoch | k | bytes sent per rank | losses gathered would be | ratio |")
    print("|---|---|---|---|---|---|")
    for name, epoch in COMPARED:
        sent, k = run_ranks(bytes_sent, options.ranks, name, epoch, options)[0]
        dense = 4 * options.batch // options.ranks * options.classes
        print(f"| {name} | {epoch} | {k} | {sent:,} | {dense:,} | {dense / sent:,.0f} |")


def bytes_sent(rank: int, name: str, epoch: int, options: Options) -> tuple[int, int]:
    """Count the bytes this rank contributes to collectives in one step; returns (bytes, k)."""
    sent: list[int] = []
    all_reduce = torch.distributed.all_reduce  # the one collective that a loss of this family makes

    def counted(tensor: torch.Tensor, **more: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, **more)

    torch.distributed.all_reduce = counted
    logits_BK, labels_BK = make_batch(options.batch, options.classes, options.observed)
    share = options.batch // torch.distributed.get_world_size()
    rows = slice(rank * share, (rank + 1) * share)
    method = make_method(name, epoch, options)
    method.loss(logits_BK[rows], labels_BK[rows], torch.arange(options.batch)[rows])
    return sum(sent), selected(method, options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = tyro.cli(Options)
    print_times(chosen)
    print_bytes(chosen)
