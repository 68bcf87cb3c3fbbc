"""The large-loss methods against plain cross-entropy and the reference formulation.

Forward and backward of one batch on one CPU thread, in interleaved rounds; each ratio is the
median of the per-round ratios of CPU time. Memory is the most resident memory a step adds, in
matrices of B x K floats (the gradient of the logits is one). Prints a Markdown table.

A second table counts the bytes that the ranks of a shared batch exchange for its masks, against
gathering the losses themselves.

    python -m benchmarks.compute.losses --batch 256 --classes 5000 --rounds 15
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.common.timing import interleaved, peak_bytes, ratio
from pipeline import methods
from tests.support.distributed import run_ranks

Step = Callable[[], object]


def reference(
    logits_BK: torch.Tensor, labels_BK: torch.Tensor, k: int, scheme: str
) -> torch.Tensor:
    """Two matrices of losses, top-k over the flattened batch, where: as the papers' code."""
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
    """Logits as of a trained model, and ``observed`` labels per image, a third positive."""
    torch.manual_seed(0)
    logits_BK = (torch.randn(B, K) * 2 - 5).requires_grad_()
    labels_BK = torch.full((B, K), -1, dtype=torch.int8)
    classes_BO = torch.rand(B, K).topk(observed).indices
    labels_BK.scatter_(1, classes_BO, (torch.rand(B, observed) < 0.33).to(torch.int8))
    return logits_BK, labels_BK


def step(logits_BK: torch.Tensor, loss: Callable[[], torch.Tensor]) -> Step:
    """Forward and backward, to the gradient of the logits; leaves nothing behind."""

    def run() -> None:
        torch.autograd.grad(loss(), logits_BK)

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--classes", type=int, default=5000)
    parser.add_argument("--observed", type=int, default=10, help="annotations per image")
    parser.add_argument("--delta-rel", type=float, default=0.5, help="percent per epoch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ranks", type=int, default=4, help="for the bytes exchanged")
    args = parser.parse_args()
    torch.set_num_threads(1)
    B, K = args.batch, args.classes
    logits_BK, labels_BK = make_batch(B, K, args.observed)
    target_BK = labels_BK.clamp(0, 1).float()
    ids_B, delta = torch.arange(B), {"delta_rel": args.delta_rel}

    def plain() -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits_BK, target_BK)

    print(f"B = {B}, K = {K}, delta_rel = {args.delta_rel:g} %, {args.rounds} rounds, 1 thread\n")
    print("| method | epoch | k | CPU ms | over plain BCE | reference over it | extra matrices |")
    print("|---|---|---|---|---|---|---|")
    cases = []
    for name, epoch in (("an", 1), ("ll-r", 2), ("ll-r", 10), ("ll-ct", 10), ("ll-cp", 2)):
        method: Any = methods.create(name, K, **({} if name == "an" else delta))
        method.begin_epoch(epoch)
        run = step(logits_BK, lambda m=method: m.loss(logits_BK, labels_BK, ids_B)[0])
        k = 0 if name == "an" else method.k(B * K)
        cases.append((name, epoch, k, run, peak_bytes(run) / (4 * B * K)))
    plain_memory = peak_bytes(step(logits_BK, plain)) / (4 * B * K)
    print(f"| plain BCE, targets ready | - | - | - | 1.00 | - | {plain_memory:.2f} |")
    for name, epoch, k, run, memory in cases:
        written_out = step(
            logits_BK, lambda k=k, name=name: reference(logits_BK, labels_BK, k, name)
        )
        variants = {"ours": run, "plain": step(logits_BK, plain), "reference": written_out}
        times = interleaved(variants, args.rounds)
        print(
            f"| {name} | {epoch} | {k} | {statistics.median(times['ours']):.1f} "
            f"| {ratio(times['ours'], times['plain']):.2f} "
            f"| {ratio(times['reference'], times['ours']):.2f} | {memory:.2f} |"
        )
    print(f"\nOne step of the same batch over {args.ranks} ranks (gloo):\n")
    print("| method | epoch | k | bytes sent per rank | losses gathered would be | ratio |")
    print("|---|---|---|---|---|---|")
    for name, epoch in (("an", 1), ("ll-r", 2), ("ll-r", 10), ("ll-cp", 2)):
        options = {} if name == "an" else delta
        sent, k = run_ranks(bytes_sent, args.ranks, B, K, name, epoch, options)[0]
        dense = 4 * B // args.ranks * K
        print(f"| {name} | {epoch} | {k} | {sent:,} | {dense:,} | {dense / sent:,.0f} |")


def bytes_sent(
    rank: int, B: int, K: int, name: str, epoch: int, options: dict[str, float]
) -> tuple[int, int]:
    """(bytes this rank contributes to collectives in one step, k)."""
    sent: list[int] = []
    original = torch.distributed.all_reduce  # the one collective that a loss of this family makes

    def counted(tensor: torch.Tensor, **more: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return original(tensor, **more)

    torch.distributed.all_reduce = counted
    logits_BK, labels_BK = make_batch(B, K, 10)
    share = B // torch.distributed.get_world_size()
    own = slice(rank * share, (rank + 1) * share)
    method: Any = methods.create(name, K, **options)
    method.begin_epoch(epoch)
    method.loss(logits_BK[own], labels_BK[own], torch.arange(B)[own])
    return sum(sent), 0 if name == "an" else method.k(B * K)


if __name__ == "__main__":
    main()
