"""Where the model is that a user names: a directory, a bucket, or MLflow."""

from __future__ import annotations

import logging

from pipeline import storage

# Inside an MLflow model made by `pipeline.registry`.
IN_MODEL = "artifacts/checkpoint"


def checkpoint_directory(uri: str) -> str:
    """The checkpoint directory, or its URL, that ``uri`` means; see `predictor.load`.

    Raises:
        InputError: there is none.
    """
    if uri.startswith("runs:/"):
        from pipeline import registry

        return checkpoint_directory(registry.run_directory(uri))
    if uri.startswith("models:/"):
        from pipeline import registry

        uri = registry.download(uri)
    location = storage.absolute(uri)
    if storage.exists(storage.join(location, "MLmodel")):
        location = storage.join(location, IN_MODEL)
    if not storage.exists(storage.join(location, "meta.json")):
        location = _best_of_run(location)
    return location


def _best_of_run(location: str) -> str:
    from pipeline import train  # brings Ray, which takes seconds

    # Ray says at length that it found the run that we asked for.
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    return train.best_checkpoint(location)
