"""Open, find again, close and read MLflow's runs, on the driver."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.tracking.client import attempt, mlflow_client, tracking_uri
from pipeline.tracking.errors import is_absent, mlflow_errors
from pipeline.tracking.source import code_tags
from sharding.errors import InputError
from sharding.labels import SCHEMA
from sharding.log import redact

# Tag of an experiment that is about training; MLflow asks each visitor to choose without it.
_KEY_HASH = "run_key_sha256"
_KIND, _TRAINING = "mlflow.experimentKind", "custom_model_development"
# Of MLflow itself, and of the databases beneath it.
_ROW_EXISTS = re.compile("already exists|UNIQUE constraint|duplicate key|Duplicate entry", re.I)

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class TableInput:
    """A label table that a run reads.

    Attributes:
        context: split.
        path: path or URL.
        digest: of the file.
        profile: its counts by name.
    """

    context: str
    path: str
    digest: str
    profile: Mapping[str, Any] = field(default_factory=dict)


def open_run(
    *,
    experiment: str,
    name: str,
    key: str,
    resume: bool,
    own: str = "",
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    config: Mapping[str, Any],
    inputs: Sequence[TableInput] = (),
    parent: str | None = None,
) -> str:
    """Create an MLflow run, or find the one that a training began with.

    Args:
        experiment: created if missing, with its artifacts beside the sqlite file.
        name: run name.
        key: what identifies the training (its directory); looked up when ``resume``.
        resume: continue the newest run with this key, so that a resumed training is one curve.
        own: id of the run to continue, if it is known; then none is looked up.
        params: flat parameters.
        tags: flat tags; a run that is continued gets them again.
        config: logged as `config.json`.
        inputs: label tables read.
        parent: run id of the parent run, for evaluations.

    Returns:
        The run id.

    Raises:
        InputError: the tracking server does not answer or refuses, or the experiment is deleted.
    """
    key, config = redact(key), json.loads(redact(json.dumps(config)))
    tags = {name: redact(str(value)) for name, value in {**code_tags(), **tags}.items()}
    with mlflow_errors("no run can be opened in MLflow"):
        client = mlflow_client()
        from mlflow.entities import RunTag  # after the client's settings

        keys = {"run_key": key, _KEY_HASH: _hash_of(key)}
        run_id: str | None = own or None
        if run_id is None:
            experiment_id = _despite_races(lambda: _experiment_id(client, experiment))
            run_id = _find(client, experiment_id, key) if resume else None
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            renewed = {**tags, **keys}
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in renewed.items()])
            return run_id
        parents = {"mlflow.parentRunId": parent} if parent else {}
        all_tags = {**_user(), **tags, **parents, **keys, "mlflow.runName": name}
        run_id = str(client.create_run(experiment_id, tags=all_tags, run_name=name).info.run_id)
        try:
            _describe(client, run_id, params, config, inputs)
        except Exception:
            attempt(lambda: client.delete_run(run_id))  # else the next attempt would go on with it
            raise
        return run_id


def close_run(run_id: str, status: str) -> None:
    """Mark a run FINISHED, FAILED or KILLED; never raises."""
    attempt(lambda: mlflow_client().set_terminated(run_id, status))


@contextlib.contextmanager
def closing(run_id: str) -> Iterator[None]:
    """Close a run when the block ends: FINISHED, KILLED by a signal, or FAILED."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        close_run(run_id, status)


def adopt(run_id: str, parent: str, status: str | None = None) -> None:
    """Make a run a child of another one; never raises.

    Args:
        run_id: of a training.
        parent: id of the other run.
        status: FINISHED, FAILED or KILLED, for a training whose process is gone.
    """
    attempt(lambda: mlflow_client().set_tag(run_id, "mlflow.parentRunId", parent))
    if status:
        close_run(run_id, status)


def knows(run_id: str) -> bool:
    """Check whether the tracking server has a run, and has not deleted it."""
    return _status(run_id) is not None


def key_of(run_id: str) -> str | None:
    """Look up what a run was opened for (`open_run`); None if the server has no such run.

    Raises:
        InputError: the tracking server does not answer or refuses.
    """
    with mlflow_errors(f"run {run_id} cannot be read in MLflow"):
        try:
            run = mlflow_client().get_run(run_id)
        except Exception as error:  # every store raises its own kinds
            if not is_absent(error):
                raise
            return None
    is_deleted = run.info.lifecycle_stage != "active"
    return None if is_deleted else str(run.data.tags.get("run_key", ""))


def is_finished(run_id: str) -> bool:
    """Check whether a run that the tracking server has ended as FINISHED."""
    return _status(run_id) == "FINISHED"


def _status(run_id: str) -> str | None:
    """Read the status of a run; None if the server has none such, or does not answer."""
    try:
        info = mlflow_client().get_run(run_id).info if run_id else None
        return info.status if info and info.lifecycle_stage == "active" else None
    except Exception:  # every store raises its own kinds
        return None


def download(run_id: str, path: str, directory: str) -> str:
    """Download an artifact of a run into ``directory``; return its local path.

    Raises:
        InputError: there is no such run or artifact.
    """
    fix = "name an evaluation's run id, or a scores.parquet"
    with mlflow_errors(f"run {run_id!r} has no {path}", fix):
        return str(mlflow_client().download_artifacts(run_id, path, directory))


def _user() -> dict[str, str]:
    """Name who runs this, as MLflow's own functions do; nothing where the system does not know."""
    try:
        return {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):
        return {}


def _experiment_id(client: Any, name: str) -> str:
    """Find an experiment by name, or create it.

    Raises:
        InputError: it is deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":
            raise InputError(
                f"experiment {name!r} is deleted in MLflow",
                file=tracking_uri(),
                fix=f"restore it (mlflow experiments restore -x {experiment.experiment_id}), or "
                "pass another --experiment",
            )
        if _KIND not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, _KIND, _TRAINING)
        return str(experiment.experiment_id)
    uri = tracking_uri()
    # Without this, sqlite runs keep artifacts in whatever directory created the experiment.
    location = None
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        folder = name.replace("/", "_").lstrip(".") or "_"
        location = (database.parent / "mlartifacts" / folder).as_uri()
    return str(client.create_experiment(name, artifact_location=location, tags={_KIND: _TRAINING}))


def _find(client: Any, experiment_id: str, key: str) -> str | None:
    """Find the newest run with this key: by its hash, as a query takes not every character.

    Runs of 0.1.0 have no hash, and no such characters in their key.
    """
    queries = [f"tags.{_KEY_HASH} = '{_hash_of(key)}'"]
    if not set(key) & set("'\\"):
        queries.append(f"tags.run_key = '{key}'")
    newest_first = ["attributes.start_time DESC"]
    for query in queries:
        if runs := client.search_runs([experiment_id], query, order_by=newest_first, max_results=1):
            return str(runs[0].info.run_id)
    return None


def _hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _describe(
    client: Any,
    run_id: str,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    inputs: Sequence[TableInput],
) -> None:
    """Log what a run starts from: flat parameters, `config.json`, and the tables it reads."""
    from mlflow.entities import Param

    # Without empty ones: MLflow repeats all of them above every image it shows.
    texts = {key: redact(str(value)) for key, value in params.items() if value is not None}
    client.log_batch(run_id, params=[Param(key, value) for key, value in texts.items()])
    store = client.get_run(run_id).info.artifact_uri
    with mlflow_errors(f"artifacts cannot be written to {store}"):
        client.log_dict(run_id, dict(config), "config.json")
    if inputs:
        described = [_dataset_input(table) for table in inputs]
        _despite_races(lambda: client.log_inputs(run_id, described))


def _despite_races(act: Callable[[], Result], most: int = 5) -> Result:
    """Call again what failed because another process made the same row between look and insert.

    MLflow looks for an experiment or a data set first, and takes the row that is there.
    """
    for _ in range(most):
        try:
            return act()
        except Exception as error:  # every store raises its own kinds
            if not _ROW_EXISTS.search(str(error)):
                raise
    return act()


def _dataset_input(table: TableInput) -> Any:
    """Describe a label table as MLflow does a data set, which shows columns and profile."""
    from mlflow.data.sources import LocalArtifactDatasetSource
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = redact(table.path)
    source = LocalArtifactDatasetSource(path)
    described = Dataset(
        name=_dataset_name(path),
        digest=table.digest[:36],
        source_type=source._get_source_type(),
        source=source.to_json(),
        schema=json.dumps({"mlflow_colspec": [_column(field) for field in SCHEMA]}),
        profile=json.dumps(table.profile),
    )
    return DatasetInput(described, tags=[InputTag("mlflow.data.context", table.context)])


def _column(field: Any) -> dict[str, Any]:
    """Describe a column of an Arrow schema as MLflow does."""
    is_list = str(field.type).startswith("list")
    kind = {"type": "array", "items": {"type": "integer"}} if is_list else {"type": "string"}
    return {**kind, "name": field.name, "required": True}


def _dataset_name(path: str) -> str:
    """Shorten ``.../dataset/labels/2017_11/train.parquet`` to ``dataset/2017_11/train``."""
    table = Path(path)
    return "/".join([*(part for part in table.parts[-4:-1] if part != "labels"), table.stem])
