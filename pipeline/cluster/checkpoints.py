"""Ray's list of a run's checkpoints, put in order before Ray reads it.

Ray empties the list before it writes it anew. A kill or a full disk in between leaves a run that
cannot go on, though all its checkpoints are there; so does a listed checkpoint that is not. A kill
before the list was first written leaves a run that would begin again. And what was being uploaded
at a kill would stay for ever: Ray removes nothing but what it has listed.

Which checkpoint of a run is the best: what Ray noted of their validation scores decides.
"""

from __future__ import annotations

import contextlib
import io
import json
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
_NAME = "checkpoint_manager_snapshot.json"

_END_RECORD = 22

# As Ray names them: a checkpoint that somebody copied or renamed is theirs.
_CHECKPOINT = re.compile(r"checkpoint_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d+")


def exists(run: str) -> bool:
    """Whether Ray has noted checkpoints of the run in that directory.

    Raises:
        InputError: it has, but the list is damaged.
    """
    location = storage.join(run, _NAME)
    if not storage.exists(location):
        return False
    if _listed(location) is None:
        raise InputError(
            "the run's list of checkpoints is damaged",
            file=location,
            fix="repeat the training command, which mends it, or pass a checkpoint_* directory",
        )
    return True


def latest(run: str) -> str | None:
    """Name of the checkpoint that the run would go on from; None where there is no saying."""
    try:
        state = json.loads(storage.read_bytes(storage.join(run, _NAME)))
        return state["latest_checkpoint_result"]["checkpoint_dir_name"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def mend(run: str) -> None:
    """Make the list one of the checkpoints that are whole, and remove all others.

    Nobody may be training in that directory. A list that is made anew knows nothing of validations
    that were still to come: such a checkpoint has no score.

    Args:
        run: directory, path or URL, of a run that may not have begun yet.

    Raises:
        OSError: the storage cannot be read.
        InputError: the list has to be made of checkpoints of another format, or the disk is full.
    """
    location = storage.join(run, _NAME)
    listed = _listed(location) if storage.exists(location) else {}
    present = [name for name in storage.directories_in(run) if _CHECKPOINT.fullmatch(name)]
    named = listed or dict.fromkeys(present)
    whole = [name for name in named if name in present and _is_whole(storage.join(run, name))]
    if listed is None or set(whole) != set(listed):
        lost = ", ".join(name for name in named if name not in whole)
        why = (
            "is damaged" if listed is None else f"names {lost}, not whole" if listed else "has none"
        )
        info(f"{location} {why}: made anew from {len(whole)} checkpoints", "WARNING")
        storage.write_json(location, _list_of(run, whole, listed or {}))
    for name in present:
        if name not in whole:
            with contextlib.suppress(OSError):  # it does no harm where it is
                storage.remove(storage.join(run, name))


def _listed(location: str) -> dict[str, Mapping[str, float]] | None:
    """Metrics of the checkpoints in the list, by name; None where it is damaged."""
    try:
        results = json.loads(storage.read_bytes(location))["checkpoint_results"]
        return {result["checkpoint_dir_name"]: result["metrics"] for result in results}
    except (ValueError, TypeError, KeyError):
        return None


def _list_of(
    run: str, names: list[str], known: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The list as Ray would have written it, had the checkpoints come in the order of training.

    Args:
        run: directory.
        names: of the checkpoints.
        known: metrics of those that were validated by themselves, and maybe of others.
    """
    metas = {name: checkpoint.read_meta(storage.join(run, name)) for name in names}
    names = sorted(names, key=lambda name: (metas[name].epoch, metas[name].step))
    metrics = [dict(known.get(name, metas[name].metrics)) for name in names]
    results = [
        {"version": 0, "checkpoint_dir_name": name, "metrics": its}
        for name, its in zip(names, metrics, strict=True)
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


def _is_whole(directory: str) -> bool:
    """Whether an upload came to its end; a storage that cannot be read is no answer.

    What another version of this code wrote is no half upload, though it may be of no use here.
    """
    try:
        meta = dict(json.loads(storage.read_bytes(storage.join(directory, "meta.json"))))
        ranks = range(meta.get("world_size", 0) if meta.get("step") else 0)
        names = ("model.pt", "training.pt", *(f"rank-{rank}.pt" for rank in ranks))
        return all(_has_its_end(storage.join(directory, name)) for name in names)
    except (FileNotFoundError, ValueError, TypeError):
        return False


def _has_its_end(location: str) -> bool:
    """Whether a file of torch's, a zip archive, ends in the record that is written last."""
    with storage.open_file(location) as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - _END_RECORD))
        return file.read(_END_RECORD).startswith(b"PK\x05\x06")


def best_of_run(location: str) -> str:
    """The checkpoint a user means: a checkpoint directory itself, or a run's best one.

    Raises:
        InputError: neither, or Ray's list of the run's checkpoints is damaged.
    """
    from ray.train import Result

    path = storage.absolute(location)
    if storage.exists(storage.join(path, "meta.json")):
        return path
    if not exists(path):
        raise InputError(
            "neither a checkpoint nor a run that has one",
            file=location,
            fix="pass runs/<name>, or one of the checkpoint_* directories in it",
        )
    return best_of_result(Result.from_path(path), path)


def last_good(result: Any, directory: str) -> str:
    """Which checkpoint holds what a run had learnt before it stopped, in words."""
    if result.checkpoint is None:
        return f"there is no checkpoint yet in {directory}"
    latest = storage.join(directory, Path(result.checkpoint.path).name)
    return f"the last good checkpoint is {latest}"


def best_of_result(result: Any, directory: str) -> str:
    """The same of Ray's ``result`` of the run in ``directory``.

    Raises:
        InputError: it has no checkpoint.
    """
    best = result.get_best_checkpoint(SCORE, "max") or result.checkpoint
    if best is None:
        raise InputError("the run has no checkpoint yet", file=directory, fix="train first")
    return storage.join(directory, Path(best.path).name)  # Ray's own path has lost the scheme
