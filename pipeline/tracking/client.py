"""Reach MLflow: where it is, a client of it, what its servers need of the environment.

Functions that take a client may raise whatever its backend raises.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sharding.errors import here, program
from sharding.log import first_line, info, redact

# MLflow's own defaults would block for minutes on a dead server, and talk about its database.
_NO_BARS = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    _NO_BARS: "false",
}
_NAMED_PLACES = ("databricks", "databricks-uc", "uc")
_PREFIXES = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "DATABRICKS_")
_VARIABLES = (
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
# The context of a run's data set that metrics of a prefix were measured on.
_CONTEXTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, else a sqlite file in the working directory.

    A relative path is made absolute: the run's writer works in another directory.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme, separator, path = uri.rpartition(":///")
    if separator and scheme.startswith("sqlite") and path[:1] not in ("/", ":", ""):
        return f"{scheme}:///{Path(path).absolute()}"
    is_path = ":" not in uri and uri not in _NAMED_PLACES
    return str(Path(uri).absolute()) if is_path else uri


def credentials() -> dict[str, str]:
    """Collect what MLflow and its artifact stores read of this shell's environment.

    Actors get Ray's environment, which may be of another day and another shell.
    """
    return {k: v for k, v in os.environ.items() if k.startswith(_PREFIXES) or k in _VARIABLES}


def browse_command() -> str:
    """Return the shell command that opens the runs in a browser."""
    uri = redact(_uri_here())
    if uri.startswith("http"):
        return f"open {uri}"
    return shlex.join([*program("mlflow", "mlflow"), "ui", "--backend-store-uri", uri])


def serve_command(model: str) -> str:
    """Return the shell command that serves a registered model over HTTP."""
    environment = [f"{_NO_BARS}=false"]
    if "MLFLOW_TRACKING_URI" not in os.environ:
        environment.append(f"MLFLOW_TRACKING_URI={_uri_here()}")
    options = ("--model-uri", f"models:/{model}@best", "--env-manager", "local", "--port", "5001")
    words = [*environment, *program("mlflow", "mlflow"), "models", "serve", *options]
    return shlex.join(["env", *words])


def _uri_here() -> str:
    """Write the tracking URI for this shell: a database file below its directory by its name."""
    scheme, separator, path = tracking_uri().rpartition(":///")
    return scheme + separator + here(path)


def mlflow_client() -> Any:
    """Make MLflow's client of `tracking_uri`."""
    return load()(tracking_uri=tracking_uri())


def load() -> Any:
    """Import MLflow, which takes seconds, with our defaults of its settings; return its client."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # MLflow would answer before it has sent anything, and nobody would see that it failed.
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"
    from mlflow.tracking import MlflowClient

    return MlflowClient


def global_client() -> Any:
    """Make the same client, and set `tracking_uri` for MLflow's functions that take none."""
    load()
    import mlflow

    mlflow.set_tracking_uri(tracking_uri())
    mlflow.set_registry_uri(tracking_uri())
    return mlflow_client()  # it keeps the registry's place as it is set now


def attempt(action: Callable[[], Any]) -> bool:
    """Call ``action``; log its error and return False instead of raising it."""
    try:
        action()
    except Exception as error:  # a finished job must survive whatever a tracking server does
        info(f"MLflow: {first_line(error)}", "WARNING")
        return False
    return True


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


def age_of(run_id: str) -> int:
    """Count the seconds since a run was created; 0 if the server does not answer."""
    try:
        return round(time.time() - mlflow_client().get_run(run_id).info.start_time / 1000)
    except Exception:  # every store raises its own kinds
        return 0
