"""Which checkpoint of a run is the best: what Ray noted of their validation scores decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import snapshot, storage
from pipeline.validation import SCORE
from sharding.errors import InputError


def of_run(location: str) -> str:
    """The checkpoint a user means: a checkpoint directory itself, or a run's best one.

    Raises:
        InputError: neither, or Ray's list of the run's checkpoints is damaged.
    """
    from ray.train import Result

    path = storage.absolute(location)
    if storage.exists(storage.join(path, "meta.json")):
        return path
    if not snapshot.exists(path):
        raise InputError(
            "neither a checkpoint nor a run that has one",
            file=location,
            fix="pass runs/<name>, or one of the checkpoint_* directories in it",
        )
    return of_result(Result.from_path(path), path)


def last_good(result: Any, directory: str) -> str:
    """Which checkpoint holds what a run had learnt before it stopped, in words."""
    if result.checkpoint is None:
        return f"there is no checkpoint yet in {directory}"
    latest = storage.join(directory, Path(result.checkpoint.path).name)
    return f"the last good checkpoint is {latest}"


def of_result(result: Any, directory: str) -> str:
    """The same of Ray's ``result`` of the run in ``directory``.

    Raises:
        InputError: it has no checkpoint.
    """
    best = result.get_best_checkpoint(SCORE, "max") or result.checkpoint
    if best is None:
        raise InputError("the run has no checkpoint yet", file=directory, fix="train first")
    return storage.join(directory, Path(best.path).name)  # Ray's own path has lost the scheme
