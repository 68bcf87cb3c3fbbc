"""Run a program on mutated input, and print how often what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutations:
    """How many inputs to mutate."""

    count: int = 10_000
    """Inputs."""
    seed: int = 0
    """Of the mutations."""


def print_counts(run: Callable[[int, int], Counter[str]], options: Mutations) -> int:
    """Run on that many inputs; print the counts by outcome, and return the exit code."""
    counts = run(options.count, options.seed)
    for outcome, number in sorted(counts.items()):
        print(f"{number:7,} {outcome}")
    return int(any("WRONG" in outcome for outcome in counts))
