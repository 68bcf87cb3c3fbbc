"""MLflow's runs as the driver sees them: opened, found again, closed, read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.tracking.client import (
    attempt,
    code_tags,
    describe,
    experiment_id,
    find,
    first_line,
    mlflow_client,
    tracking_uri,
)
from sharding.errors import InputError


def open_run(
    *,
    experiment: str,
    name: str,
    key: str,
    resume: bool,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    config: Mapping[str, Any],
    inputs: Sequence[tuple[str, str, str]] = (),
    parent: str | None = None,
) -> str:
    """Create the MLflow run of a training, or find the one it began with.

    Args:
        experiment: created if missing, with its artifacts beside the sqlite file.
        name: run name.
        key: what identifies the training (its directory); looked up when ``resume``.
        resume: continue the newest run with this key, so that a resumed training is one curve.
        params: flat parameters; config: logged as `config.json`.
        tags: flat tags; a run that is continued gets them anew.
        inputs: (context, dataset path, digest) per split read.
        parent: run id of the parent run, for evaluations.

    Returns:
        The run id.

    Raises:
        InputError: the tracking server does not answer; starting is the time to find out.
    """
    client = mlflow_client()
    from mlflow.entities import RunTag  # after the client's settings

    try:
        in_experiment = experiment_id(client, experiment)
        run_id = find(client, in_experiment, key) if resume else None
        tags = {**code_tags(), **tags}
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            return run_id
        parents = {"mlflow.parentRunId": parent} if parent else {}
        all_tags = {**tags, **parents, "run_key": key, "mlflow.runName": name}
        run_id = client.create_run(in_experiment, tags=all_tags, run_name=name).info.run_id
        describe(client, run_id, params, config, inputs)
        return run_id
    except InputError:
        raise
    except Exception as error:  # every backend raises its own kinds
        raise InputError(
            f"MLflow does not answer ({first_line(error)})",
            file=tracking_uri(),
            fix="start the server, or set MLFLOW_TRACKING_URI",
        ) from None


def close_run(run_id: str, status: str) -> None:
    """Mark a run FINISHED, FAILED or KILLED; never raises."""
    attempt(lambda: mlflow_client().set_terminated(run_id, status))


def knows(run_id: str) -> bool:
    """Whether there is such a run here."""
    try:
        return bool(run_id) and bool(mlflow_client().get_run(run_id))
    except Exception:  # every store raises its own kinds
        return False


def download(run_id: str, path: str, directory: str) -> str:
    """Fetch an artifact of a run into ``directory``; return its local path.

    Raises:
        InputError: there is no such run or artifact.
    """
    try:
        return str(mlflow_client().download_artifacts(run_id, path, directory))
    except Exception as error:  # every store raises its own kinds
        raise InputError(
            f"run {run_id!r} has no {path} ({first_line(error)})",
            file=tracking_uri(),
            fix="name an evaluation's run id, or a scores.parquet",
        ) from None
