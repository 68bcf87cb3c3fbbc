"""The verify job: look, mend if asked to, look again at what was mended, tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharding import unfinished
from sharding.desk import Desk
from sharding.importers.source import open_images
from sharding.manifest import Dataset
from sharding.options import VerifyOptions
from sharding.problem import Problem
from sharding.repair import read_whole, repair
from sharding.verify import verify

_SMALL = 2_000_000_000
"""Bytes that are hashed here sooner than workers could start."""

ParallelMap = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """What was found, and what of it is left after mending."""

    dataset: Dataset
    found: tuple[Problem, ...]
    left: tuple[Problem, ...]

    @property
    def well(self) -> bool:
        """Whether nothing is wrong any more."""
        return not self.left

    def __str__(self) -> str:
        manifest = self.dataset.manifest
        images = sum(shard.images for shard in manifest.shards)
        lines = [f"problem: {problem}" for problem in self.left]
        lines += [
            f"mended: {problem.path}: {problem.what}"
            for problem in self.found
            if problem not in self.left
        ]
        verdict = "is well" if self.well else f"has {len(self.left)} problems"
        lines.append(
            f"{self.dataset.directory} {verdict}: {images:,} images in "
            f"{len(manifest.shards):,} shards, labels {', '.join(manifest.labels)}."
        )
        return "\n".join(lines)


def checkup(options: VerifyOptions, parallel: ParallelMap, desk: Desk | None = None) -> Checkup:
    """Verify a dataset, and mend it where the options say so.

    Args:
        options: whose dataset is a directory, the desk's if there is one.
        parallel: spreads work over the cluster.
        desk: where the dataset is worked on, with whole indexes, if it is in a bucket.

    Raises:
        InputError: there is no dataset, its class list is not the manifest's, or an image needed
            for a repair cannot be used.
    """
    desk = desk or Desk(Path(options.dataset))
    Dataset.open(desk.directory)  # before a mistyped directory would be made
    with unfinished.holding(desk.directory):
        dataset = Dataset.open(desk.directory)
        small = sum(shard.bytes for shard in dataset.manifest.shards) < _SMALL
        check_all: ParallelMap = map if small or options.quick else parallel
        found = verify(dataset, check_all, hashed=() if options.quick else None, files=desk.files)
        left = found
        if options.repair and found:
            source = (
                None
                if options.images is None
                else open_images(dataset, options.images, options.fetch)
            )
            desk.fill(read_whole(dataset, found))
            dataset = repair(dataset, found, source, desk.through(parallel))
            desk.push()
            suspects = {problem.path for problem in found if problem.kind == "tar"}
            left = verify(dataset, check_all, hashed=suspects, files=desk.files)
        return Checkup(dataset=dataset, found=tuple(found), left=tuple(left))
