"""Measure average precision at the scale of the Open Images V3 test split.

    python -m benchmarks.compute.evaluator
    python -m benchmarks.compute.evaluator --rounds 9 --dense-classes 5000   # the dense rows: 4 GB

Every round runs every variant once; a ratio is the median of the rounds' ratios of CPU time.
Scikit-learn on dense masks and torchmetrics run on the first --dense-classes classes and are
scaled to all of them: both go class by class. The torchmetrics row needs that package installed.
Where numpy sorts with AVX-512, the comparison with its sort is repeated without.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from sklearn.metrics import average_precision_score

from benchmarks.common.timing import interleaved, ratio
from pipeline.evaluation.metrics import average_precision


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes; the defaults are those of the Open Images V3 test split."""

    images: int = 125_436
    classes: int = 5_000
    positives: int = 1_105_052
    negatives: int = 562_347
    dense_classes: int = 200
    rounds: int = 15
    slow_rounds: int = 3
    """Rounds of the variants that take seconds."""
    seed: int = 0
    sort_only: bool = False
    """Compare with numpy's sort alone, and print the ratio."""


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Annotated entries of all images, length E; `quantised_E` ties heavily."""

    scores_E: np.ndarray
    quantised_E: np.ndarray
    labels_E: np.ndarray
    classes_E: np.ndarray
    rows_E: np.ndarray


def make_entries(options: Options) -> Entries:
    """Draw entries with long-tailed class frequencies; positives score higher on average."""
    rng = np.random.default_rng(options.seed)
    size = options.positives + options.negatives
    frequency = 1 / (np.arange(options.classes) + options.classes / 20)
    # Like the test split: every class has some entries, the common ones have thousands.
    classes_E = rng.permutation(
        np.concatenate(
            [
                np.repeat(np.arange(options.classes), 10),
                rng.choice(
                    options.classes, size - 10 * options.classes, p=frequency / frequency.sum()
                ),
            ]
        )
    )
    labels_E = (rng.permutation(size) < options.positives).astype(np.int8)
    scores_E = (rng.normal(size=size) + labels_E).astype(np.float32)
    lowest, highest = scores_E.min(), scores_E.max()
    steps_E = np.round((scores_E - lowest) / (highest - lowest) * 255)
    return Entries(
        scores_E=scores_E,
        quantised_E=steps_E.astype(np.float32),
        labels_E=labels_E,
        classes_E=classes_E,
        rows_E=rng.integers(0, options.images, size),
    )


def per_class(split: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Compute AP with scikit-learn, one class at a time, on entries split beforehand."""
    return np.array([average_precision_score(labels, scores) for labels, scores in split])


def per_dense_column(scores_NK: np.ndarray, labels_NK: np.ndarray) -> np.ndarray:
    """Compute AP with scikit-learn on dense matrices, one masked column at a time."""
    precisions = []
    for k in range(scores_NK.shape[1]):
        observed_N = labels_NK[:, k] != -1
        labels, scores = labels_NK[observed_N, k], scores_NK[observed_N, k]
        precisions.append(average_precision_score(labels, scores) if labels.any() else 0.0)
    return np.array(precisions)


def densify(entries: Entries, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Make (scores_NK float32, labels_NK int8) of classes spread over the frequencies."""
    step = options.classes // options.dense_classes
    chosen = (entries.classes_E % step == 0) & (entries.classes_E // step < options.dense_classes)
    rows, columns = entries.rows_E[chosen], entries.classes_E[chosen] // step
    scores_NK = np.zeros((options.images, options.dense_classes), np.float32)
    labels_NK = np.full(scores_NK.shape, -1, np.int8)
    scores_NK[rows, columns] = entries.scores_E[chosen]
    labels_NK[rows, columns] = entries.labels_E[chosen]
    return scores_NK, labels_NK


def torchmetrics_or_none(
    scores_NK: np.ndarray, labels_NK: np.ndarray
) -> Callable[[], object] | None:
    """Make a call of torchmetrics' multilabel AP on dense matrices, if it is installed."""
    try:
        from torchmetrics.functional.classification import multilabel_average_precision
    except ImportError:
        return None
    scores, labels = torch.from_numpy(scores_NK).sigmoid(), torch.from_numpy(labels_NK).long()
    num_labels = scores.shape[1]
    return lambda: multilabel_average_precision(
        scores, labels, num_labels, average="none", ignore_index=-1
    )


def peak_megabytes(work: Callable[[], object]) -> float:
    """Measure the peak memory that a call allocates beyond its inputs, MB."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main(options: Options) -> None:
    """Measure, check equality, print the table."""
    torch.set_num_threads(1)
    entries = make_entries(options)
    scores, labels, classes = entries.scores_E, entries.labels_E, entries.classes_E
    K = options.classes

    def ours() -> np.ndarray:
        return average_precision(scores, labels, classes, K)

    def ours_tied() -> np.ndarray:
        return average_precision(entries.quantised_E, labels, classes, K)

    order = np.argsort(classes, kind="stable")
    edges = np.searchsorted(classes[order], np.arange(1, K))
    split, split_tied = (
        list(zip(np.split(labels[order], edges), np.split(s[order], edges), strict=True))
        for s in (scores, entries.quantised_E)
    )
    keys = np.random.default_rng(1).permutation(
        (classes.astype(np.uint64) << np.uint64(33)) + scores.view(np.uint32)
    )
    fast: dict[str, Callable[[], object]] = {
        "ours": ours,
        "ours, 8-bit scores (ties)": ours_tied,
        "one bare np.sort of the keys": lambda: np.sort(keys),
    }
    if options.sort_only:
        times = interleaved(fast, options.rounds)
        print(f"{ratio(times['ours'], times['one bare np.sort of the keys']):.2f}")
        return
    dense = densify(entries, options)
    slow: dict[str, Callable[[], object]] = {
        "ours": ours,
        "scikit-learn per class, pre-split": lambda: per_class(split),
        "scikit-learn per class, dense": lambda: per_dense_column(*dense),
    }
    other = torchmetrics_or_none(*dense)
    if other is not None:
        slow["torchmetrics, dense"] = other
    error = np.abs(ours() - per_class(split)).max()
    error_tied = np.abs(ours_tied() - per_class(split_tied)).max()

    print(f"{len(scores):,} annotated entries, {options.images:,} images, {K:,} classes\n")
    print("| variant | CPU ms | x ours |\n|---|---:|---:|")
    times = interleaved(fast, options.rounds)
    bare = ratio(times["ours"], times["one bare np.sort of the keys"])
    print_rows(times, {})
    slow_times = interleaved(slow, options.slow_rounds)
    whole = K / options.dense_classes
    print_rows(slow_times, {name: whole for name in slow if name.endswith("dense")})
    if other is None:
        print("| torchmetrics, dense | not installed (`pip install torchmetrics`) | – |")
    print(f"\nours / bare sort: {bare:.2f}")
    if wide := wide_instructions():
        print(f"ours / bare sort, both without AVX-512: {without(wide)}")
    print(f"largest difference from scikit-learn: {error:.1e}, with ties {error_tied:.1e}")
    print(f"peak memory beyond the inputs: {peak_megabytes(ours):.0f} MB")


def wide_instructions() -> str:
    """List numpy's names of the AVX-512 instructions that it uses on this machine."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    names = (name for name in __cpu_dispatch__ if name == "X86_V4" or name.startswith("AVX512"))
    return " ".join(name for name in names if __cpu_features__.get(name))


def without(features: str) -> str:
    """Run this module with ``--sort-only``, numpy's CPU features named switched off."""
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": features}
    module = ["-m", "benchmarks.compute.evaluator"]
    command = [sys.executable, *module, *sys.argv[1:], "--sort-only"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def print_rows(times: dict[str, list[float]], scale: dict[str, float]) -> None:
    """Print rows of the table; `scale` multiplies times of a part of the classes."""
    for name, values in times.items():
        factor = scale.get(name, 1.0)
        median, over = factor * statistics.median(values), factor * ratio(values, times["ours"])
        print(f"| {name} | {median:,.1f} | {over:.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
