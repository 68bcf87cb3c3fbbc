"""Repair Ray's snapshot of a run's checkpoints before Ray reads it, and find the best of them.

Ray empties the snapshot before it writes the next one. A kill or a full disk in between leaves a
run that cannot be continued although all its checkpoints are whole; so does a listed checkpoint
that is damaged. A kill before the first snapshot leaves a run that would begin again. And what was
being uploaded at a kill would stay for ever: Ray removes only what it has listed.

The snapshot's format is private to Ray, which is therefore capped below its next minor version.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.models import checkpoint
from sharding.errors import InputError
from sharding.log import info

SCORE = "score"
# Below every score, so that a checkpoint within an epoch is kept only while it is the latest.
UNSCORED = -2.0
_SNAPSHOT = "checkpoint_manager_snapshot.json"
# As Ray names them: a checkpoint that somebody copied or renamed is theirs.
_CHECKPOINT = re.compile(r"checkpoint_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d+")
# A zip archive's end-of-central-directory record without a comment.
_END_MAGIC, _END_BYTES = b"PK\x05\x06", 22


def best_of_run(location: str) -> str:
    """Find the checkpoint a user means: a checkpoint directory itself, or a run's best one.

    Raises:
        InputError: neither, or Ray's snapshot of the run's checkpoints is damaged.
    """
    from ray.train import Result

    path = storage.absolute(location)
    if storage.exists(storage.join(path, "meta.json")):
        return path
    snapshot = storage.join(path, _SNAPSHOT)
    if not storage.exists(snapshot):
        raise InputError(
            "neither a checkpoint nor a run that has one",
            file=location,
            fix="pass runs/<name>, or one of the checkpoint_* directories in it",
        )
    if _read(snapshot) is None:
        raise InputError(
            "the run's list of checkpoints is damaged",
            file=snapshot,
            fix="repeat the training command, which mends it, or pass a checkpoint_* directory",
        )
    return best_of_result(Result.from_path(path), path)


def best_of_result(result: Any, directory: str) -> str:
    """Find the best checkpoint of Ray's ``result`` of the run in ``directory``.

    Raises:
        InputError: it has no checkpoint.
    """
    best = result.get_best_checkpoint(SCORE, "max") or result.checkpoint
    if best is None:
        raise InputError("the run has no checkpoint yet", file=directory, fix="train first")
    return storage.join(directory, Path(best.path).name)  # Ray's own path has lost the scheme


def last_good(result: Any, directory: str) -> str:
    """Say which checkpoint holds what a run had learnt before it stopped."""
    if result.checkpoint is None:
        return f"there is no checkpoint yet in {directory}"
    path = storage.join(directory, Path(result.checkpoint.path).name)
    return f"the last good checkpoint is {path}"


def latest(run: str) -> str | None:
    """Read the name of the checkpoint that a run continues from; None if that cannot be read."""
    try:
        return str(_state(run)["latest_checkpoint_result"]["checkpoint_dir_name"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def metrics_of(run: str) -> dict[str, Mapping[str, float]]:
    """Read the metrics of a run's checkpoints, by name; none if they cannot be read."""
    try:
        return _read(storage.join(run, _SNAPSHOT)) or {}
    except OSError:
        return {}


def unscored_epochs(metrics: Mapping[str, Mapping[str, float]]) -> dict[int, str]:
    """Choose the latest checkpoint of every finished epoch none of which has a score.

    Its validation failed, or was broken off, or is still to come.

    Args:
        metrics: by checkpoint (`metrics_of`), of equal scores the latest last. Those of a
            checkpoint within an epoch name no epoch.

    Returns:
        Names by epoch, in that order.
    """
    epochs = {name: int(values.get("epoch", 0)) for name, values in metrics.items()}
    scores = {name: values.get(SCORE, UNSCORED) for name, values in metrics.items()}
    scored = {epoch for name, epoch in epochs.items() if scores[name] != UNSCORED}
    names = {epoch: name for name, epoch in epochs.items() if epoch and epoch not in scored}
    return dict(sorted(names.items()))


def awaits_validation(run: str) -> bool:
    """Read whether validation tasks were broken off; False if that cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return bool(_state(run)["pending_training_results"])
    return False


def validated_meta(directory: str) -> checkpoint.Meta:
    """Read a checkpoint's meta data, with the metrics of a validation that ran beside training.

    Those are in Ray's snapshot alone: the checkpoint was written before (`--async-validation`).

    Args:
        directory: of the checkpoint, or its URL.

    Raises:
        InputError: it is not a checkpoint.
    """
    meta = checkpoint.read_meta(directory)
    if meta.metrics.get(SCORE, UNSCORED) != UNSCORED:
        return meta
    run, _, name = directory.rstrip("/").rpartition("/")
    found = metrics_of(run).get(name) or {}
    return dataclasses.replace(meta, metrics={**meta.metrics, **found})


def is_copy(run: str, origin: str, file: str | None = None) -> bool:
    """Tell whether a run was copied from ``origin``, where a run still is; else it was moved.

    Args:
        run: directory, path or URL.
        origin: the same of the run that its checkpoints began in; "" if that is not known.
        file: by which a run is known; None for Ray's snapshot.
    """
    with contextlib.suppress(OSError, InputError):
        sign = storage.join(origin, file or _SNAPSHOT)
        is_there = origin not in ("", run) and storage.exists(sign)
        return is_there and ("://" in run + origin or not os.path.samefile(run, origin))
    return False


def repair(run: str) -> None:
    """Make Ray's snapshot list the checkpoints that are whole, and remove all others.

    Nobody may be training in that directory. A rebuilt snapshot has no validations that were still
    to come (`queue_validations`).

    Args:
        run: directory, path or URL, of a run that may not have begun yet.

    Raises:
        OSError: the storage cannot be read.
        InputError: a checkpoint to be listed is of another format, or the disk is full.
    """
    location = storage.join(run, _SNAPSHOT)
    listed = _read(location) if storage.exists(location) else {}
    present = [name for name in storage.directories_in(run) if _CHECKPOINT.fullmatch(name)]
    candidates = listed or dict.fromkeys(present)
    whole = [name for name in candidates if name in present and is_whole(storage.join(run, name))]
    if listed is None or set(whole) != set(listed):
        lost = ", ".join(name for name in candidates if name not in whole)
        why = (
            "is damaged"
            if listed is None
            else f"names {lost}, not whole"
            if listed
            else "is missing"
        )
        info(f"{location} {why}: rebuilt from {len(whole)} checkpoints", "WARNING")
        storage.write_json(location, _snapshot(run, whole, listed or {}))
    for name in present:
        if name not in whole:
            with contextlib.suppress(OSError):  # it takes space, no more
                storage.remove(storage.join(run, name))


def queue_validations(run: str, *, latest: bool) -> None:
    """Make Ray's snapshot list what has no score as still to be validated, as Ray will then do.

    Nobody may be training in that directory, and its snapshot is repaired.

    Args:
        run: directory, path or URL, of a run that may not have begun yet.
        latest: whether the checkpoint that training goes on from, too; else its workers do so.

    Raises:
        OSError: the storage cannot be read or written.
    """
    location = storage.join(run, _SNAPSHOT)
    if not storage.exists(location):
        return
    state = _state(run)
    results = {result["checkpoint_dir_name"]: result for result in state["checkpoint_results"]}
    metrics = {name: result["metrics"] for name, result in results.items()}
    names = list(unscored_epochs(metrics).values())
    if not latest and names and results[names[-1]] == state["latest_checkpoint_result"]:
        names.pop()
    queued = {
        "pending_training_results": [results[name] for name in names],
        "pending_validation_specs": [True] * len(names),
    }
    for how in ("failed", "timed_out"):
        field = f"{how}_validation_checkpoint_dir_names"
        queued[field] = [name for name in state[field] if name not in names]
    if any(state[field] != value for field, value in queued.items()):
        storage.write_json(location, state | queued)


def _state(run: str) -> dict[str, Any]:
    """Read Ray's whole snapshot."""
    return dict(json.loads(storage.read_bytes(storage.join(run, _SNAPSHOT))))


def _read(location: str) -> dict[str, Mapping[str, float]] | None:
    """Read the metrics of the listed checkpoints, by name; None if the snapshot is damaged."""
    try:
        results = json.loads(storage.read_bytes(location))["checkpoint_results"]
        return {result["checkpoint_dir_name"]: result["metrics"] for result in results}
    except (ValueError, TypeError, KeyError):
        return None


def _snapshot(
    run: str, names: list[str], known: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Build the snapshot as Ray would have written it, had it taken these checkpoints alone.

    The format is `_CheckpointManagerState` of `ray.train.v2`.

    Args:
        run: directory.
        names: of the checkpoints.
        known: metrics of those that a separate task validated, and maybe of others.
    """
    metas = {name: checkpoint.read_meta(storage.join(run, name)) for name in names}
    names = sorted(names, key=lambda name: (metas[name].epoch, metas[name].step))
    metrics = [dict(known.get(name, metas[name].metrics)) for name in names]
    results = [
        {"version": 0, "checkpoint_dir_name": name, "metrics": values}
        for name, values in zip(names, metrics, strict=True)
    ]
    # Ray keeps the best at the end, and of equal ones the latest.
    ranked = sorted(range(len(names)), key=lambda index: metrics[index].get(SCORE, UNSCORED))
    return {
        "checkpoint_results": [results[index] for index in ranked],
        "checkpoint_report_indices": ranked,
        "latest_checkpoint_result": results[-1] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }


def is_whole(directory: str) -> bool:
    """Check whether an upload was completed; raises OSError if the storage cannot be read.

    What another version of this code wrote counts as whole, although it may be of no use here.
    """
    try:
        meta = dict(json.loads(storage.read_bytes(storage.join(directory, "meta.json"))))
        ranks = range(meta.get("world_size", 0) if meta.get("step") else 0)
        names = ("model.pt", "training.pt", *(f"rank-{rank}.pt" for rank in ranks))
        return all(_has_end_record(storage.join(directory, name)) for name in names)
    except (FileNotFoundError, ValueError, TypeError):
        return False


def _has_end_record(location: str) -> bool:
    """Check whether a file of torch's, a zip archive, ends in the record that is written last."""
    with storage.open_file(location) as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - _END_BYTES))
        return file.read(_END_BYTES).startswith(_END_MAGIC)
