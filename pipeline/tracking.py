"""MLflow, kept at arm's length: one run per training, one writer, and no way to stop training.

The driver opens the run; a `Tracker` actor on the driver's machine is the only writer, so the
default sqlite file needs no server even when the workers sit on other hosts. Workers hand it
points and artifacts without waiting. What MLflow does not take is kept, retried, and spooled to
disk to be replayed when the same run goes on.
"""

from __future__ import annotations

import json
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharding.errors import InputError

# MLflow's own defaults would block for minutes on a dead server, and talk about its database.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_RETRY_SECONDS = 15.0
_BATCH = 1000  # MLflow's limit of metrics per call

Point = tuple[str, float, int]


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else a sqlite file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def browse_command() -> str:
    """The shell command that opens the runs in a browser."""
    uri = tracking_uri()
    if uri.startswith("http"):
        return f"open {uri}"
    return f"mlflow ui --backend-store-uri {uri}"


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
        params: flat parameters; tags: flat tags; config: logged as `config.json`.
        inputs: (context, dataset path, digest) per split read.
        parent: run id of the parent run, for evaluations.

    Returns:
        The run id.

    Raises:
        InputError: the tracking server does not answer; starting is the time to find out.
    """
    client = _client()
    try:
        experiment_id = _experiment(client, experiment)
        run_id = _find(client, experiment_id, key) if resume else None
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            return run_id
        parents = {"mlflow.parentRunId": parent} if parent else {}
        all_tags = {**tags, **parents, "run_key": key, "mlflow.runName": name}
        run_id = client.create_run(experiment_id, tags=all_tags, run_name=name).info.run_id
        _describe(client, run_id, params, config, inputs)
        return run_id
    except InputError:
        raise
    except Exception as error:  # every backend raises its own kinds
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"MLflow does not answer ({reason})",
            file=tracking_uri(),
            fix="start the server, or set MLFLOW_TRACKING_URI",
        ) from None


def close_run(run_id: str, status: str) -> None:
    """Mark a run FINISHED, FAILED or KILLED; never raises."""
    _attempt(lambda: _client().set_terminated(run_id, status))


def download(run_id: str, path: str, directory: str) -> str:
    """Fetch an artifact of a run into ``directory``; return its local path.

    Raises:
        InputError: there is no such run or artifact.
    """
    try:
        return str(_client().download_artifacts(run_id, path, directory))
    except Exception as error:  # every store raises its own kinds
        raise InputError(
            f"run {run_id!r} has no {path} ({str(error).splitlines()[0][:120]})",
            file=tracking_uri(),
            fix="name an evaluation's run id, or a scores.parquet",
        ) from None


class Tracker:
    """The one writer of a run; made a Ray actor by the driver.

    Args:
        uri: MLflow tracking URI.
        run_id: the run.
        spool: file that holds points MLflow has not taken; replayed on start.
    """

    def __init__(self, uri: str, run_id: str, spool: str) -> None:
        os.environ["MLFLOW_TRACKING_URI"] = uri
        self._client, self._run_id, self._spool = _client(), run_id, Path(spool)
        self._queue: queue.Queue[Callable[[], None]] = queue.Queue()
        self._last_step: dict[str, int] = {}
        self._state: dict[str, Any] = {}
        self._failure: str | None = None
        self._spooling, self._unsent = threading.Lock(), 0
        threading.Thread(target=self._drain, daemon=True, name="mlflow").start()
        self._replay()

    def log(self, points: Sequence[Point]) -> None:
        """Queue metric points (name, value, images seen)."""
        with self._spooling:
            self._unsent += 1
            self._spool.parent.mkdir(parents=True, exist_ok=True)
            with open(self._spool, "a", encoding="utf-8") as spool:
                spool.write(json.dumps(list(points)) + "\n")
        self._queue.put(lambda: self._send(points))

    def table(self, columns: Mapping[str, Sequence[Any]], path: str) -> None:
        """Queue a table artifact, shown by MLflow's table view."""
        self._queue.put(lambda: self._log_table(columns, path))

    def artifact(self, content: bytes, path: str) -> None:
        """Queue a file artifact."""
        self._queue.put(lambda: self._log_bytes(content, path))

    def image(self, png: bytes, key: str, step: int) -> None:
        """Queue an image of a series (MLflow shows a slider over steps)."""
        self._queue.put(lambda: self._log_image(png, key, step))

    def progress(self, **state: Any) -> None:
        """Remember where training is; the driver polls `state`."""
        self._state = state

    def fail(self, reason: str) -> None:
        """Remember why training stopped by its own decision."""
        self._failure = reason

    def state(self) -> tuple[dict[str, Any], str | None]:
        """(latest progress, reason of failure)."""
        return self._state, self._failure

    def flush(self, timeout: float = 60.0) -> int:
        """Wait until everything queued was sent; return how many items were not."""
        deadline = time.monotonic() + timeout
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._queue.unfinished_tasks

    def _drain(self) -> None:
        while True:
            send = self._queue.get()
            while not _attempt(send):
                # Order is kept: later points wait behind the one that failed.
                time.sleep(_RETRY_SECONDS)
            self._queue.task_done()

    def _send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        fresh = [point for point in points if point[2] > self._known_step(point[0])]
        metrics = [Metric(key, value, now, step) for key, value, step in fresh]
        for begin in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[begin : begin + _BATCH])
        self._last_step.update({key: step for key, _, step in fresh})
        with self._spooling:
            self._unsent -= 1
            if not self._unsent:
                self._spool.unlink(missing_ok=True)

    def _known_step(self, key: str) -> int:
        # A resumed run repeats what came after its last checkpoint; those points are there.
        if key not in self._last_step:
            history = self._client.get_metric_history(self._run_id, key)
            self._last_step[key] = max((metric.step for metric in history), default=-1)
        return self._last_step[key]

    def _replay(self) -> None:
        if self._spool.is_file():
            lines = self._spool.read_text(encoding="utf-8").splitlines()
            self._spool.unlink()
            self.log(
                [(key, value, step) for line in lines for key, value, step in json.loads(line)]
            )

    def _log_table(self, columns: Mapping[str, Sequence[Any]], path: str) -> None:
        self._client.log_table(self._run_id, data=dict(columns), artifact_file=path)

    def _log_bytes(self, content: bytes, path: str) -> None:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / Path(path).name
            file.write_bytes(content)
            self._client.log_artifact(self._run_id, str(file), str(Path(path).parent))

    def _log_image(self, png: bytes, key: str, step: int) -> None:
        import io

        from PIL import Image

        image = Image.open(io.BytesIO(png)).convert("RGB")
        self._client.log_image(self._run_id, image, key=key, step=step)


def _client() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri())


def _attempt(action: Callable[[], Any]) -> bool:
    try:
        action()
    except Exception as error:  # training must survive whatever a tracking server does
        print(f"MLflow: {str(error).splitlines()[0][:200]}; will retry", flush=True)
        return False
    return True


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    uri = tracking_uri()
    # Without this, sqlite runs keep artifacts in whatever directory created the experiment.
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / name).as_uri()
    return client.create_experiment(name, artifact_location=location)


def _find(client: Any, experiment_id: str, key: str) -> str | None:
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
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource
    from mlflow.entities import DatasetInput, InputTag, Param

    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
    client.log_dict(run_id, dict(config), "config.json")
    datasets = [
        DatasetInput(
            MetaDataset(
                LocalArtifactDatasetSource(path), name=Path(path).name, digest=digest[:36]
            )._to_mlflow_entity(),
            tags=[InputTag("mlflow.data.context", context)],
        )
        for context, path, digest in inputs
    ]
    if datasets:
        client.log_inputs(run_id, datasets)
