"""Measure what a rank waits for its readers between two epochs: pipelines held, and built anew.

It reads as a training does, on a GPU if there is one: batches of an epoch, in the last tenth of
which the next epoch's pipeline is begun, the validation split, the first batch of the next epoch.
Both kinds take turns epoch by epoch; medians, of the border (from asking for an epoch to its first
batch) and of the first batch and the whole of a validation.

    python -m benchmarks.compute.epoch_border --dataset demo/dataset
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import tyro

from benchmarks.common.timing import ratio
from pipeline.data.loader import Loader
from pipeline.data.pipelines import Pipelines
from sharding.manifest import Dataset

_COLUMNS = ("border", "validation's first batch", "validation")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    dataset: Path = Path("demo/dataset")
    """With a validation split."""
    epochs: int = 9
    """Of each kind; the first does not count."""
    steps: int = 20
    """Batches of an epoch."""
    image_size: int = 96
    """Pixels."""
    batch_size: int = 32
    """Images per step."""
    threads: int = 2
    """That decode."""


def read(options: Options) -> Iterator[tuple[float, ...]]:
    """Read epoch after epoch; yield milliseconds as in `_COLUMNS`."""
    dataset, device = Dataset.open(options.dataset), 0 if torch.cuda.is_available() else None
    sizes = {"image_size": options.image_size, "batch_size": options.batch_size}
    common = {**sizes, "threads": options.threads, "device_id": device}
    training = Loader.of_split(dataset, "train", train=True, **common)
    validation = Loader.of_split(dataset, "validation", **common)
    for number in itertools.count(1):
        begun = _now()
        epoch = training.epoch(number)
        next(epoch)
        border = _now() - begun
        for done, _ in enumerate(itertools.islice(epoch, options.steps - 1), start=2):
            if done == options.steps - options.steps // 10:
                training.build_ahead(number + 1)
        begun = _now()
        batches = validation.epoch(0)
        next(batches)
        first = _now() - begun
        for _ in batches:
            pass
        yield 1000 * border, 1000 * first, 1000 * (_now() - begun)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def built_anew() -> Iterator[None]:
    """Let no pipeline be held within the block."""
    nothing = mock.Mock()
    ahead = mock.patch.object(Pipelines, "build_ahead", nothing)
    with ahead, mock.patch.object(Pipelines, "keep", nothing):
        yield


def main(options: Options) -> None:
    """Print medians of both kinds, and of the ratios."""
    torch.set_num_threads(options.threads)
    held, anew = read(options), read(options)
    rows: dict[str, list[tuple[float, ...]]] = {"held": [], "built anew": []}
    for _ in range(options.epochs):
        rows["held"].append(next(held))
        with built_anew():
            rows["built anew"].append(next(anew))
    columns = {name: [list(c) for c in zip(*row[1:], strict=True)] for name, row in rows.items()}
    print(f"| pipelines | {' | '.join(f'{name}, ms' for name in _COLUMNS)} |\n|---|---:|---:|---:|")
    for name, times in columns.items():
        print(f"| {name} | {' | '.join(f'{statistics.median(each):.1f}' for each in times)} |")
    ratios = map(ratio, columns["held"], columns["built anew"])
    print(f"| held / built anew | {' | '.join(f'{each:.2f}' for each in ratios)} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
