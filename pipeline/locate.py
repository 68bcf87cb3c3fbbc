"""Where the model is that a user names: a directory, a bucket, or MLflow."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from pipeline import storage
from sharding.errors import InputError

# Inside an MLflow model made by `pipeline.registry`.
IN_MODEL = "artifacts/checkpoint"


def checkpoint_directory(uri: str) -> str:
    """The local checkpoint directory that ``uri`` means; see `predictor.load`.

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
    return _local(location)


def _best_of_run(location: str) -> str:
    from pipeline import train  # brings Ray, which takes seconds

    # Ray says at length that it found the run that we asked for.
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    return train.best_checkpoint(location)


def _local(location: str) -> str:
    """A copy of what inference needs where ``location`` is a bucket."""
    if "://" not in location:
        return location
    directory = tempfile.mkdtemp(prefix="checkpoint-")
    for name in ("meta.json", "model.pt"):
        try:
            content = storage.read_bytes(storage.join(location, name))
        except OSError as error:
            raise InputError(
                f"cannot be read ({error})", file=location, fix="pass a checkpoint"
            ) from None
        Path(directory, name).write_bytes(content)
    return directory
