"""Find the checkpoint that a user names: a directory, a run, a bucket, or MLflow.

Every command resolves its ``--checkpoint`` here, once, on the driver.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from pipeline import storage
from pipeline.tracking import registry
from sharding.errors import InputError

IN_MODEL = "artifacts/checkpoint"
"""Where an MLflow model made by `mlflow_model` has the weights, or the link to them."""
LINK = "link.json"


def checkpoint_directory(uri: str) -> str:
    """Resolve what a user names to a checkpoint directory, or its URL.

    Args:
        uri: a checkpoint directory; a run directory, whose best checkpoint is taken; an MLflow
            model's directory; ``runs:/<run id>`` of a training or an evaluation; or
            ``models:/<name>@<alias>``, ``models:/<name>/<version>``, ``models:/<model id>``.

    Returns:
        A place that other machines see as well, where there is one; else a copy in ``IN_MODEL`` of
        a model that was downloaded to this machine (`is_copy`).

    Raises:
        InputError: there is none.
    """
    run_id = ""
    if uri.startswith("runs:/"):
        run_id, uri = registry.run_directory(uri)
    elif uri.startswith("models:/"):
        uri = registry.download(uri)
    location = storage.absolute(uri)
    if "://" not in location and not Path(location).is_dir():
        raise InputError("no such directory", file=location, fix="check the path")
    if storage.exists(storage.join(location, "MLmodel")):
        held = storage.join(location, IN_MODEL)
        named = _link(held)
        return named if _same(named, held) else in_model(held)
    if storage.exists(storage.join(location, "meta.json")):
        return location
    return _best_of_run(location, run_id)


def is_copy(directory: str) -> bool:
    """Whether a checkpoint is part of an MLflow model, which only this machine may see."""
    return directory.endswith(IN_MODEL)


def check_thresholds_place(directory: str) -> None:
    """Refuse a checkpoint whose thresholds could not be kept with its weights."""
    if is_copy(directory):
        raise InputError(
            "thresholds are kept in the checkpoint, and this is a downloaded copy of one",
            file=directory,
            fix="pass the run or checkpoint directory",
        )
    storage.check_writable(directory)


def in_model(directory: str) -> str:
    """Resolve the checkpoint of an MLflow model: the weights in it, else those it links to.

    Args:
        directory: ``IN_MODEL`` of the model.

    Raises:
        InputError: the checkpoint that it links to is no longer there.
    """
    if storage.exists(storage.join(directory, "meta.json")):
        return directory
    named = _link(directory)
    if not named or not storage.exists(storage.join(named, "meta.json")):
        raise InputError(
            "the checkpoint that this MLflow model names is gone",
            file=named or directory,
            fix="use a registered model, which has its weights with it",
        )
    return named


@contextlib.contextmanager
def still_there(directory: str) -> Iterator[None]:
    """Name the cause where work fails because a run has removed the checkpoint meanwhile.

    Raises:
        InputError: of the block; or, in its place, that the checkpoint is gone.
    """
    try:
        yield
    except InputError:
        with contextlib.suppress(OSError):
            if not storage.exists(storage.join(directory, "meta.json")):
                raise InputError(
                    "the training that goes on has removed this checkpoint for a better one",
                    file=directory,
                    fix="repeat the command with the run's directory: its best one is taken",
                ) from None
        raise


def _link(directory: str) -> str:
    """Read which checkpoint an MLflow model was made of; "" if it does not say."""
    return str((storage.read_json(storage.join(directory, LINK)) or {}).get("checkpoint", ""))


def _same(named: str, held: str) -> bool:
    """Whether both directories are there and hold one checkpoint."""
    try:
        metas = [storage.read_bytes(storage.join(path, "meta.json")) for path in (named, held)]
    except (OSError, InputError):  # gone, or out of this machine's reach
        return False
    return metas[0] == metas[1]


def _best_of_run(location: str, run_id: str) -> str:
    from pipeline.cluster import checkpoints, own_run  # brings Ray, which takes seconds

    if run_id:
        own_run.check(location, run_id)
    # Ray says at length that it found the run that we asked for.
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    return checkpoints.best_of_run(location)
