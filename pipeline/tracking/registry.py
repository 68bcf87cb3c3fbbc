"""Registered models in MLflow: versions of a name, the best of them, and where a model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.tracking.client import everywhere, first_line, mlflow_client, one_line, tracking_uri
from sharding.errors import InputError

BEST = "best"


def register(
    model_id: str, name: str, metrics: Mapping[str, float], compared_by: str, run_id: str
) -> str:
    """Make a LoggedModel the next version of a registered model; return the version.

    The alias ``best`` moves to it unless the version that has it scored higher.

    Args:
        model_id: from `loggedmodel.log_model`.
        name: of the registered model, made if missing.
        metrics: of the model.
        compared_by: the metric that decides; versions without it lose.
        run_id: the evaluation that judged the model.
    """
    import mlflow
    from mlflow.entities import LoggedModelInput

    with one_line():
        client = everywhere()
        value = metrics.get(compared_by)
        tags = {} if value is None else {compared_by: f"{value:.6f}"}
        version = mlflow.register_model(f"models:/{model_id}", name, tags=tags).version
        client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
        best = _score_of(client, name, compared_by)
        if best is None or (value is not None and value >= best):
            client.set_registered_model_alias(name, BEST, version)
        return str(version)


def download(uri: str) -> str:
    """A local copy of the MLflow model ``models:/...``.

    Raises:
        InputError: there is none.
    """
    from mlflow import artifacts

    everywhere()
    try:
        return str(artifacts.download_artifacts(artifact_uri=uri))
    except Exception as error:  # every store raises its own kinds
        raise InputError(
            f"no model {uri} ({first_line(error)})",
            file=tracking_uri(),
            fix="name a registered model, or set MLFLOW_TRACKING_URI",
        ) from None


def run_directory(uri: str) -> str:
    """Where the model of ``runs:/<run id>`` is: a training's directory, an evaluated checkpoint.

    Raises:
        InputError: there is no such run, or it is not one of ours.
    """
    run_id = uri.removeprefix("runs:/").partition("/")[0]
    try:
        tags = mlflow_client().get_run(run_id).data.tags
        return tags["checkpoint"] if "checkpoint" in tags else tags["run_key"]
    except Exception as error:  # every store raises its own kinds
        raise InputError(
            f"no run {run_id!r} of ours ({first_line(error)})",
            file=tracking_uri(),
            fix="name a training's or an evaluation's run id, or set MLFLOW_TRACKING_URI",
        ) from None


def _score_of(client: Any, name: str, metric: str) -> float | None:
    """The metric of the version that is the best so far; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_model_version_by_alias(name, BEST).tags
    except MlflowException:
        return None
    return float(tags[metric]) if metric in tags else None
