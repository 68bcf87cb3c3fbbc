"""Where MLflow's runs are, and how a run is described: what `tracking` and `registry` share.

Functions that take a client may raise whatever its backend raises.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# What MLflow's list of experiments says of one; otherwise each visitor is asked to choose.
_KIND, _TRAINING = "mlflow.experimentKind", "custom_model_development"
# Which of a run's data sets its metrics of a prefix are about.
_CONTEXTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else a sqlite file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def browse_command() -> str:
    """The shell command that opens the runs in a browser."""
    uri = tracking_uri()
    if uri.startswith("http"):
        return f"open {uri}"
    return f"mlflow ui --backend-store-uri {uri}"


def mlflow_client() -> Any:
    """MLflow's client of `tracking_uri`."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri())


def everywhere() -> Any:
    """The same client, and `tracking_uri` for those functions of MLflow that take none."""
    import mlflow

    made = mlflow_client()
    mlflow.set_tracking_uri(tracking_uri())
    mlflow.set_registry_uri(tracking_uri())
    return made


def code_tags() -> dict[str, str]:
    """Commit of a checkout and whether it was changed since; empty where there is no git."""
    git = ["git", "-C", str(Path(__file__).parents[2])]
    try:
        commit, changed = (
            subprocess.run([*git, *asked], capture_output=True, text=True, timeout=10, check=True)
            for asked in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {
        "mlflow.source.git.commit": commit.stdout.strip(),
        "git_dirty": str(bool(changed.stdout.strip())).lower(),
    }


def experiment_id(client: Any, name: str) -> str:
    """Id of an experiment, made if missing."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if _KIND not in found.tags:
            client.set_experiment_tag(found.experiment_id, _KIND, _TRAINING)
        return found.experiment_id
    uri = tracking_uri()
    # Without this, sqlite runs keep artifacts in whatever directory created the experiment.
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / name).as_uri()
    return client.create_experiment(name, artifact_location=location, tags={_KIND: _TRAINING})


def find(client: Any, experiment_id: str, key: str) -> str | None:
    """The newest run with this key."""
    runs = client.search_runs(
        [experiment_id],
        filter_string=f"tags.run_key = '{key}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


def describe(
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

    # Without those that say nothing: MLflow repeats all of them above every image it shows.
    told = {key: str(value) for key, value in params.items() if value is not None}
    client.log_batch(run_id, params=[Param(key, value) for key, value in told.items()])
    client.log_dict(run_id, dict(config), "config.json")
    datasets = [
        DatasetInput(
            MetaDataset(
                LocalArtifactDatasetSource(path), name=_name_of(path), digest=digest[:36]
            )._to_mlflow_entity(),
            tags=[InputTag("mlflow.data.context", context)],
        )
        for context, path, digest in inputs
    ]
    if datasets:
        client.log_inputs(run_id, datasets)


def datasets_of(run: Any) -> dict[str, tuple[str, str]]:
    """(name, digest) of what a run read, by context: train, validation, test."""
    found = {}
    for read in run.inputs.dataset_inputs if run.inputs else ():
        context = {tag.key: tag.value for tag in read.tags}.get("mlflow.data.context", "")
        found[context] = (read.dataset.name, read.dataset.digest)
    return found


def about(key: str, datasets: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """The data set that a metric was measured on, as `mlflow.entities.Metric` takes it."""
    context = _CONTEXTS.get(re.split("[/_]", key)[0], "")
    if context not in datasets:
        return {}
    name, digest = datasets[context]
    return {"dataset_name": name, "dataset_digest": digest}


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn whatever MLflow raises into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # every backend raises its own kinds
        raise InputError(
            f"MLflow does not take the model ({first_line(error)})",
            file=tracking_uri(),
            fix="start the server, or set MLFLOW_TRACKING_URI",
        ) from None


def first_line(error: Exception) -> str:
    """What an exception says, in short."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def attempt(action: Callable[[], Any]) -> bool:
    """Whether ``action`` went through; says why if not, never raises."""
    try:
        action()
    except Exception as error:  # training must survive whatever a tracking server does
        info(f"MLflow: {first_line(error)}; will retry", "WARNING")
        return False
    return True


def _name_of(path: str) -> str:
    """``dataset/2017_11/train`` of ``.../dataset/labels/2017_11/train.parquet``."""
    table = Path(path)
    return "/".join([*(part for part in table.parts[-4:-1] if part != "labels"), table.stem])
