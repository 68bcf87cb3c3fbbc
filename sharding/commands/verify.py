"""The verify job: look, mend if asked to, look again at what was mended, tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sharding.commands.options import VerifyOptions
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.maintenance.checks import Kind, Problem, check_dataset
from sharding.maintenance.repair import repair, tars_to_read
from sharding.manifest import Dataset
from sharding.sources.base import ParallelMap
from sharding.sources.named import open_images

_SMALL = 2_000_000_000
"""Bytes that are hashed here sooner than workers could start."""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was found, and what of it is left after mending.

    Attributes:
        location: directory or URL of the dataset.
        dataset: as it is now.
        found: problems before mending.
        left: problems after it.
    """

    location: str
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
            f"{self.location} {verdict}: {images:,} images in "
            f"{len(manifest.shards):,} shards, labels {', '.join(manifest.labels)}."
        )
        return "\n".join(lines)


def verify(
    options: VerifyOptions, parallel: ParallelMap, workspace: Workspace | None = None
) -> VerifyReport:
    """Verify a dataset, and mend it where the options say so.

    Args:
        options: whose dataset is a directory, the workspace's if there is one.
        parallel: spreads work over the cluster.
        workspace: of the dataset, if it is in a bucket.

    Raises:
        InputError: there is no dataset, its class list is not the manifest's, or an image needed
            for a repair cannot be used.
    """
    workspace = workspace or Workspace(Path(options.dataset))
    Dataset.open(workspace.directory)  # before a mistyped directory would be made
    with lock.acquire(workspace.directory):
        dataset = Dataset.open(workspace.directory)
        workspace.download(shard.index for shard in dataset.manifest.shards)
        small = sum(shard.bytes for shard in dataset.manifest.shards) < _SMALL
        check_all: ParallelMap = map if small or options.quick else parallel
        found = check_dataset(
            dataset, check_all, hashed=() if options.quick else None, files=workspace.store
        )
        left = found
        if options.repair and found:
            source = (
                None
                if options.images is None
                else open_images(dataset, options.images, options.fetch)
            )
            workspace.download(tars_to_read(dataset, found))
            dataset = repair(dataset, found, source, workspace.workers(parallel))
            workspace.push()
            suspects = {problem.path for problem in found if problem.kind is Kind.TAR}
            shards = dataset.manifest.shards
            workspace.download(shard.index for shard in shards if shard.path in suspects)
            left = check_dataset(dataset, check_all, hashed=suspects, files=workspace.store)
        return VerifyReport(
            location=workspace.location, dataset=dataset, found=tuple(found), left=tuple(left)
        )
