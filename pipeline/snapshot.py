"""Ray's list of a run's checkpoints, put in order before Ray reads it.

Ray empties the list before it writes it anew. A kill or a full disk in between leaves a run that
cannot go on, though all its checkpoints are there. And what was being uploaded when a run was
killed would stay for ever: Ray removes nothing but what it has listed.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from typing import Any

from pipeline import checkpoint, storage
from pipeline.validation import SCORE, UNSCORED
from sharding.errors import InputError
from sharding.structured import tell

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
    """Make a damaged list anew; remove the checkpoints that the list does not have.

    Nobody may be training in that directory. Validations that were still to come of checkpoints in
    a damaged list are not: such a checkpoint has no score.

    Args:
        run: directory, path or URL, of a run that may not have begun yet.

    Raises:
        OSError: the storage cannot be read.
    """
    location = storage.join(run, _NAME)
    if not storage.exists(location):
        return
    listed = _listed(location)
    if listed is None:
        whole = [name for name in _checkpoints(run) if _is_whole(storage.join(run, name))]
        tell(f"{location} is damaged: made anew from {len(whole)} checkpoints", "WARNING")
        storage.write_json(location, _list_of(run, whole))
        listed = set(whole)
    for name in _checkpoints(run):
        if name not in listed:
            with contextlib.suppress(OSError):  # it does no harm where it is
                storage.remove(storage.join(run, name))


def _listed(location: str) -> set[str] | None:
    """Names of the checkpoints in the list; None where it is damaged."""
    try:
        state = json.loads(storage.read_bytes(location))
        return {result["checkpoint_dir_name"] for result in state["checkpoint_results"]}
    except (ValueError, TypeError, KeyError):
        return None


def _list_of(run: str, names: list[str]) -> dict[str, Any]:
    """The list as Ray would have written it, had the checkpoints come in the order of training."""
    metas = {name: checkpoint.read_meta(storage.join(run, name)) for name in names}
    names = sorted(names, key=lambda name: (metas[name].epoch, metas[name].step))
    results = [
        {"version": 0, "checkpoint_dir_name": name, "metrics": dict(metas[name].metrics)}
        for name in names
    ]
    # Ray keeps the best at the end, and of equal ones the latest.
    ranked = sorted(
        range(len(names)), key=lambda index: metas[names[index]].metrics.get(SCORE, UNSCORED)
    )
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


def _checkpoints(run: str) -> list[str]:
    return [name for name in storage.directories_in(run) if _CHECKPOINT.fullmatch(name)]


def _is_whole(directory: str) -> bool:
    """Whether an upload came to its end; a storage that cannot be read is no answer."""
    try:
        meta = checkpoint.read_meta(directory)
        ranks = range(meta.world_size if meta.step else 0)
        names = ("model.pt", "training.pt", *(f"rank-{rank}.pt" for rank in ranks))
        return all(_has_its_end(storage.join(directory, name)) for name in names)
    except (FileNotFoundError, InputError):
        return False


def _has_its_end(location: str) -> bool:
    """Whether a file of torch's, a zip archive, ends in the record that is written last."""
    with storage.opened(location) as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - _END_RECORD))
        return file.read(_END_RECORD).startswith(b"PK\x05\x06")
