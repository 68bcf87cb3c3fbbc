"""Know which run of MLflow belongs to a directory: that of a training, or of a study.

A path does not tell: clusters with volumes of their own have the same paths, and may share a
server. So a directory keeps the ids of the runs that were opened for it, the newest last; several
where it was used with several servers. What 0.2.0 wrote has an id in its checkpoints alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import storage
from pipeline.cluster import checkpoints
from pipeline.models.checkpoint import read_meta
from pipeline.tracking import runs
from sharding.errors import InputError
from sharding.log import info

_FILE = "mlflow.json"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of a directory's run.

    Attributes:
        run_id: to go on with; "" if the server has none.
        copied_from: run of the directory that this one is a copy of; "" if it is none.
        kept: ids that the directory has, without a copied one.
        by_path: whether a run of 0.2.0 may be there, which only the server can find.
    """

    run_id: str = ""
    copied_from: str = ""
    kept: Sequence[str] = ()
    by_path: bool = False


def find(directory: str) -> Found:
    """Find the run that a training or a study goes on with.

    Args:
        directory: path or URL.

    Raises:
        InputError: the server does not answer, or a checkpoint cannot be read.
    """
    kept = _kept(directory)
    for run_id in filter(None, (*reversed(kept), _of_checkpoint(directory))):
        origin = runs.key_of(run_id)
        if origin is None:
            continue
        if any(checkpoints.is_copy(directory, origin, file) for file in (_FILE, None)):
            info(f"{directory} is a copy of {origin}: MLflow gets a run of its own for it")
            return Found(copied_from=run_id, by_path=not kept)
        return Found(run_id=run_id, kept=kept)
    return Found(kept=kept, by_path=not kept)


def keep(directory: str, run_id: str, found: Found) -> None:
    """Write down which run was opened for a directory.

    Args:
        directory: path or URL.
        run_id: of the run.
        found: what `find` knew; nothing for a training that begins.
    """
    kept = [*(each for each in found.kept if each != run_id), run_id]
    try:
        storage.write_json(storage.join(directory, _FILE), kept)
    except (OSError, InputError) as error:  # a training waits for its storage
        info(f"the run's id in MLflow is not kept: {error}", "WARNING")


def latest(directory: str) -> str:
    """Read the id of the run that was opened last; "" if there is none.

    Raises:
        InputError: a checkpoint of 0.2.0 cannot be read.
    """
    return (_kept(directory) or [_of_checkpoint(directory)])[-1]


def check(directory: str, run_id: str) -> None:
    """Check that a run which the server says is in a directory is the one that is there.

    Raises:
        InputError: another one is.
    """
    if run_id in (kept := _kept(directory)):
        return
    ids = list(kept)
    for name in checkpoints.metrics_of(directory):
        with contextlib.suppress(InputError):
            ids.append(read_meta(storage.join(directory, name)).mlflow_run_id)
    if any(ids) and run_id not in ids:
        raise InputError(
            f"here is another run than {run_id}: {next(filter(None, ids))}",
            file=directory,
            fix="run the command where that run was trained; for the one that is here pass its "
            "directory",
        )


def _kept(directory: str) -> list[str]:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [str(run_id) for run_id in storage.read_json(storage.join(directory, _FILE)) or ()]
    return []


def _of_checkpoint(directory: str) -> str:
    name = checkpoints.latest(directory)
    return read_meta(storage.join(directory, name)).mlflow_run_id if name else ""
