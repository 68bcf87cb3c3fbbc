"""Reach MLflow: where it is, a client of it, and its errors as one line.

Functions that take a client may raise whatever its backend raises.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sharding.errors import InputError
from sharding.log import info

# MLflow's own defaults would block for minutes on a dead server, and talk about its database.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# The context of a run's data set that metrics of a prefix were measured on.
_CONTEXTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, else a sqlite file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def browse_command() -> str:
    """Return the shell command that opens the runs in a browser."""
    uri = tracking_uri()
    if uri.startswith("http"):
        return f"open {uri}"
    program = ["mlflow"] if shutil.which("mlflow") else [sys.executable, "-m", "mlflow"]
    return shlex.join([*program, "ui", "--backend-store-uri", uri])


def mlflow_client() -> Any:
    """Make MLflow's client of `tracking_uri`."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri())


def global_client() -> Any:
    """Make the same client, and set `tracking_uri` for MLflow's functions that take none."""
    import mlflow

    client = mlflow_client()
    mlflow.set_tracking_uri(tracking_uri())
    mlflow.set_registry_uri(tracking_uri())
    return client


@contextlib.contextmanager
def mlflow_errors(
    problem: str, fix: str = "start the server, or set MLFLOW_TRACKING_URI"
) -> Iterator[None]:
    """Raise every error of MLflow in the block as one `InputError`: ``problem (its message)``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # every backend raises its own kinds
        raise InputError(
            f"{problem} ({_first_line(error)})", file=tracking_uri(), fix=fix
        ) from None


def attempt(action: Callable[[], Any]) -> bool:
    """Call ``action``; log its error and return False instead of raising it."""
    try:
        action()
    except Exception as error:  # training must survive whatever a tracking server does
        info(f"MLflow: {_first_line(error)}; will retry", "WARNING")
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def datasets_of(run: Any) -> dict[str, tuple[str, str]]:
    """Read (name, digest) of each data set of a run, by context: train, validation, test."""
    datasets = {}
    for read in run.inputs.dataset_inputs if run.inputs else ():
        context = {tag.key: tag.value for tag in read.tags}.get("mlflow.data.context", "")
        datasets[context] = (read.dataset.name, read.dataset.digest)
    return datasets


def dataset_of_metric(key: str, datasets: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Choose the data set a metric was measured on, as `mlflow.entities.Metric` takes it."""
    context = _CONTEXTS.get(re.split("[/_]", key)[0], "")
    if context not in datasets:
        return {}
    name, digest = datasets[context]
    return {"dataset_name": name, "dataset_digest": digest}
