"""Where the model is that a user names: a directory, a bucket, or MLflow."""

from __future__ import annotations

import logging

from pipeline import storage
from pipeline.tracking import registry
from sharding.errors import InputError

# Inside an MLflow model made by `pipeline.inference.mlflow_model`; the link stands for absent
# weights.
IN_MODEL = "artifacts/checkpoint"
LINK = "link.json"


def checkpoint_directory(uri: str) -> str:
    """The checkpoint directory, or its URL, that ``uri`` means; see `predictor.load`.

    Raises:
        InputError: there is none.
    """
    if uri.startswith("runs:/"):
        return checkpoint_directory(registry.run_directory(uri))
    if uri.startswith("models:/"):
        uri = registry.download(uri)
    location = storage.absolute(uri)
    if storage.exists(storage.join(location, "MLmodel")):
        return followed(storage.join(location, IN_MODEL))
    if not storage.exists(storage.join(location, "meta.json")):
        location = _best_of_run(location)
    return location


def followed(directory: str) -> str:
    """The checkpoint that an MLflow model holds or names.

    Raises:
        InputError: the one it names is no longer there.
    """
    if storage.exists(storage.join(directory, "meta.json")):
        return directory
    named = str((storage.read_json(storage.join(directory, LINK)) or {}).get("checkpoint", ""))
    if not named or not storage.exists(storage.join(named, "meta.json")):
        raise InputError(
            "the checkpoint that this MLflow model names is gone",
            file=named or directory,
            fix="use a registered model, or train with --log-model copy",
        )
    return named


def _best_of_run(location: str) -> str:
    from pipeline.cluster import checkpoints  # brings Ray, which takes seconds

    # Ray says at length that it found the run that we asked for.
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    return checkpoints.best_of_run(location)
