"""Measure what a rank's step costs more than alone, for one to four ranks on this machine.

Weak scaling: every rank takes the same number of images a step through the network under DDP
(gloo), the global selection of Large Loss, and Adam, one thread each. With fewer cores than ranks
the wall clock says nothing about a cluster, so the figures are CPU time per rank: of a step, of
summing all gradients alone, and of the collectives of the selection. Images
per second are those of ranks with a core each. Ranks that wait for the slowest burn no CPU;
stragglers are not modelled here. The sums go through the loopback interface or, with `--hosts`,
over a switch: every rank then has its own host, made of network namespaces (root only).
Images per second by the wall clock are shown as well; with more ranks than cores they show how
the ranks share the cores, not how training scales.

    python -m benchmarks.compute.scaling --ranks 1 2 3 4 --rounds 5
    python -m benchmarks.compute.scaling --ranks 1 2 3 4 --rounds 3 --hosts

Rounds are interleaved over the numbers of ranks; each ratio is the median of the per-round ratios.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Annotated

import tyro

from benchmarks.common.rank_hosts import ranks_on_hosts
from benchmarks.compute.rank_cost import Cost, Training, gradient_bytes, measure_rank
from sharding.errors import one_line_errors
from tests.support.distributed import run_ranks

_HEAD = """\
| ranks | images/s | wall-clock images/s | CPU ms of a rank's step | over one rank \
| gradients: MB sent, CPU ms | MB over the switch | selection: sums, KB, CPU ms |
|---:|---:|---:|---:|---:|---|---:|---|"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    ranks: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of ranks; the others are compared with the first."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    """What the ranks train."""
    rounds: int = 5
    """Interleaved rounds."""
    hosts: bool = False
    """Give every rank a host of its own, made of network namespaces; needs root."""


def main(options: Options) -> None:
    """Measure and print."""
    rounds: dict[int, list[Cost]] = {ranks: [] for ranks in options.ranks}
    with _runner(options) as run:
        for _ in range(options.rounds):
            for ranks, costs in rounds.items():
                costs.append(_slowest(run(measure_rank, ranks, options.training)))
    training, gradients = options.training, gradient_bytes(options.training)
    print(
        f"{training.backbone}, {training.image_size} px, {training.batch_size} images per rank, "
        f"K = {training.classes}: {gradients / 1e6:.0f} MB of gradients per step\n\n{_HEAD}"
    )
    alone = rounds[options.ranks[0]]
    for ranks, costs in rounds.items():
        over = statistics.median(
            each.step_ms / one.step_ms for each, one in zip(costs, alone, strict=True)
        )
        ring = 2 * (ranks - 1) / ranks * gradients
        print(_row(options, ranks, _median(costs), over, ring))


def _runner(options: Options) -> contextlib.AbstractContextManager[Callable[..., list[Cost]]]:
    """Start hosts for the ranks if asked to; yields the function that runs the ranks."""
    if options.hosts:
        return ranks_on_hosts(max(options.ranks))
    return contextlib.nullcontext(run_ranks)


def _slowest(costs: list[Cost]) -> Cost:
    return max(costs, key=lambda cost: cost.step_ms)


def _median(rounds: list[Cost]) -> Cost:
    """Take the median of each part."""
    parts = [part.name for part in fields(Cost)]
    return Cost(**{part: statistics.median(getattr(c, part) for c in rounds) for part in parts})


def _row(options: Options, ranks: int, cost: Cost, over: float, ring: float) -> str:
    images = 1000 * ranks * options.training.batch_size
    switched = f"{cost.sent_bytes / 1e6:.1f}" if options.hosts else "-"
    return (
        f"| {ranks} | {images / cost.step_ms:.1f} | {images / cost.wall_ms:.1f} "
        f"| {cost.step_ms:.0f} | {over:.2f} | {ring / 1e6:.0f}, {cost.gradients_ms:.0f} "
        f"| {switched} "
        f"| {cost.calls:.0f}, {cost.exchange_bytes / 1e3:.1f}, {cost.exchange_ms:.2f} |"
    )


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Options))
