"""Open, find again, close and read MLflow's runs, on the driver."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.tracking.client import attempt, mlflow_client, mlflow_errors, tracking_uri

# Tag of an experiment that is about training; MLflow asks each visitor to choose without it.
_KIND, _TRAINING = "mlflow.experimentKind", "custom_model_development"


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
    """Create an MLflow run, or find the one that a training began with.

    Args:
        experiment: created if missing, with its artifacts beside the sqlite file.
        name: run name.
        key: what identifies the training (its directory); looked up when ``resume``.
        resume: continue the newest run with this key, so that a resumed training is one curve.
        params: flat parameters.
        tags: flat tags; a run that is continued gets them again.
        config: logged as `config.json`.
        inputs: (context, label table, digest) per split read.
        parent: run id of the parent run, for evaluations.

    Returns:
        The run id.

    Raises:
        InputError: the tracking server does not answer.
    """
    client = mlflow_client()
    from mlflow.entities import RunTag  # after the client's settings

    with mlflow_errors("MLflow does not answer"):
        experiment_id = _experiment_id(client, experiment)
        run_id = _find(client, experiment_id, key) if resume else None
        tags = {**code_tags(), **tags}
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            return run_id
        parents = {"mlflow.parentRunId": parent} if parent else {}
        all_tags = {**tags, **parents, "run_key": key, "mlflow.runName": name}
        run_id = str(client.create_run(experiment_id, tags=all_tags, run_name=name).info.run_id)
        _describe(client, run_id, params, config, inputs)
        return run_id


def close_run(run_id: str, status: str) -> None:
    """Mark a run FINISHED, FAILED or KILLED; never raises."""
    attempt(lambda: mlflow_client().set_terminated(run_id, status))


def knows(run_id: str) -> bool:
    """Check whether the tracking server has a run."""
    try:
        return bool(run_id) and bool(mlflow_client().get_run(run_id))
    except Exception:  # every store raises its own kinds
        return False


def download(run_id: str, path: str, directory: str) -> str:
    """Download an artifact of a run into ``directory``; return its local path.

    Raises:
        InputError: there is no such run or artifact.
    """
    fix = "name an evaluation's run id, or a scores.parquet"
    with mlflow_errors(f"run {run_id!r} has no {path}", fix):
        return str(mlflow_client().download_artifacts(run_id, path, directory))


def code_tags() -> dict[str, str]:
    """Read the commit of a checkout and whether it was changed since; empty without git."""
    git = ["git", "-C", str(Path(__file__).parents[2])]
    try:
        commit, changed = (
            subprocess.run([*git, *command], capture_output=True, text=True, timeout=10, check=True)
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {
        "mlflow.source.git.commit": commit.stdout.strip(),
        "git_dirty": str(bool(changed.stdout.strip())).lower(),
    }


def _experiment_id(client: Any, name: str) -> str:
    """Find an experiment by name, or create it."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if _KIND not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, _KIND, _TRAINING)
        return str(experiment.experiment_id)
    uri = tracking_uri()
    # Without this, sqlite runs keep artifacts in whatever directory created the experiment.
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location, tags={_KIND: _TRAINING}))


def _find(client: Any, experiment_id: str, key: str) -> str | None:
    """Find the newest run with this key."""
    runs = client.search_runs(
        [experiment_id],
        filter_string=f"tags.run_key = '{key}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


def _describe(
    client: Any,
    run_id: str,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    inputs: Sequence[tuple[str, str, str]],
) -> None:
    """Log what a run starts from: flat parameters, `config.json`, and the tables it reads."""
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource
    from mlflow.entities import DatasetInput, InputTag, Param

    # Without empty ones: MLflow repeats all of them above every image it shows.
    texts = {key: str(value) for key, value in params.items() if value is not None}
    client.log_batch(run_id, params=[Param(key, value) for key, value in texts.items()])
    client.log_dict(run_id, dict(config), "config.json")
    datasets = [
        DatasetInput(
            MetaDataset(
                LocalArtifactDatasetSource(path), name=_dataset_name(path), digest=digest[:36]
            )._to_mlflow_entity(),
            tags=[InputTag("mlflow.data.context", context)],
        )
        for context, path, digest in inputs
    ]
    if datasets:
        client.log_inputs(run_id, datasets)


def _dataset_name(path: str) -> str:
    """Shorten ``.../dataset/labels/2017_11/train.parquet`` to ``dataset/2017_11/train``."""
    table = Path(path)
    return "/".join([*(part for part in table.parts[-4:-1] if part != "labels"), table.stem])
