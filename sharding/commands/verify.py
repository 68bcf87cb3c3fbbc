"""Run the verify job: check a dataset, mend it where asked to, and check again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sharding.commands.options import VerifyOptions
from sharding.commands.summary import try_training
from sharding.commands.workspace import Workspace
from sharding.dataset import lock
from sharding.errors import command
from sharding.layout import SET_ASIDE_FOLDER
from sharding.log import count
from sharding.maintenance.checks import check_dataset
from sharding.maintenance.problems import Kind, Problem
from sharding.maintenance.repair import repair, set_aside, tars_to_read
from sharding.manifest import Dataset
from sharding.sources.base import ParallelMap
from sharding.sources.named import open_images

SMALL = 2_000_000_000
"""Bytes that this process hashes sooner than workers could start."""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """List the problems of a dataset.

    Attributes:
        location: directory or URL of the dataset.
        dataset: as it is now.
        problems: before mending.
        remaining: after it.
        changed: paths of tars that have other pictures now than they had.
    """

    location: str
    dataset: Dataset
    problems: tuple[Problem, ...]
    remaining: tuple[Problem, ...]
    changed: tuple[str, ...] = ()

    @property
    def intact(self) -> bool:
        """Whether no problem remains."""
        return not self.remaining

    def __str__(self) -> str:
        manifest = self.dataset.manifest
        images = sum(shard.images for shard in manifest.shards)
        mended = [problem for problem in self.problems if problem not in self.remaining]
        lines = [f"problem: {problem}" for problem in self.remaining]
        lines += [f"{_done(problem)}: {problem.path}: {problem.what}" for problem in mended]
        lines += [f"changed: {path}: not the pictures that it had" for path in self.changed]
        verdict = "is intact" if self.intact else f"has {count(len(self.remaining), 'problem')}"
        lines.append(
            f"{self.location} {verdict}: {count(images, 'image')} in "
            f"{count(len(manifest.shards), 'shard')}, labels {', '.join(manifest.labels)}."
        )
        if self.intact:
            lines.append(f"  next         {try_training(self.dataset, self.location)}")
        elif any(problem.is_mendable for problem in self.remaining):
            repair_it = command("verify", "--dataset", self.location, "--repair")
            lines.append(f"  next         {repair_it}")
        return "\n".join(lines)


def _done(problem: Problem) -> str:
    return f"moved to {SET_ASIDE_FOLDER}/" if problem.kind is Kind.UNNAMED else "mended"


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
    with lock.acquire(workspace.directory, keep_staged=not options.repair):
        dataset = Dataset.open(workspace.directory)
        workspace.download(shard.index for shard in dataset.manifest.shards)
        small = sum(shard.bytes for shard in dataset.manifest.shards) < SMALL
        check_all: ParallelMap = map if small or options.quick else parallel
        hashed = () if options.quick else None
        problems = check_dataset(dataset, check_all, hashed=hashed, files=workspace.store)
        remaining, changed = problems, list[str]()
        if options.repair and problems:
            source = None
            if options.images is not None:
                source = open_images(dataset, options.images, options.fetch)
            workspace.download(tars_to_read(dataset, problems))
            unnamed = [problem.path for problem in problems if problem.kind is Kind.UNNAMED]
            set_aside(workspace.directory, unnamed, workspace.move)
            before = {shard.path: shard.sha256 for shard in dataset.manifest.shards}
            workers, accept = workspace.workers(parallel), options.accept_changed
            dataset = repair(dataset, problems, source, workers, accept_changed=accept)
            changed = [s.path for s in dataset.manifest.shards if before[s.path] != s.sha256]
            workspace.push()
            broken = {problem.path for problem in problems if problem.kind is Kind.TAR}
            shards = dataset.manifest.shards
            workspace.download(shard.index for shard in shards if shard.path in broken)
            remaining = check_dataset(dataset, check_all, hashed=broken, files=workspace.store)
        return VerifyReport(
            location=workspace.location,
            dataset=dataset,
            problems=tuple(problems),
            remaining=tuple(remaining),
            changed=tuple(changed),
        )
