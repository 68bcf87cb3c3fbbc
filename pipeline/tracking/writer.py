"""Write a run to MLflow from queues, so that the tracking server can neither stop nor slow it.

A `RunWriter` actor on the driver's machine is the only writer, so the default sqlite file needs no
server even when the workers are on other hosts. Workers hand it points and artifacts without
waiting. What MLflow does not take is retried; points are also spooled to disk and replayed when the
same run is continued.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.tracking import client
from pipeline.tracking.errors import is_lasting, is_missing_endpoint
from pipeline.tracking.run_log import VALIDATED, Point, ProgressState, parse
from sharding.log import first_line, info
from sharding.storage.locks import private_directory, scratch_space

_RETRY_SECONDS = 15.0
_BATCH = 1000  # MLflow's limit of metrics per call
# Which artifacts MLflow shows as tables; a longer tag it cuts, and what is cut is no JSON.
_TABLES, _LONGEST_TAG = "mlflow.loggedArtifacts", 8000
_Queue = queue.Queue[Callable[[], None]]


class _NotMade(Exception):
    """An artifact could not be made of the one before it."""


class RunWriter:
    """The only writer of a run, a `pipeline.tracking.run_log.TrainingLog`.

    Args:
        uri: MLflow tracking URI.
        run_id: the run.
        spool: file that holds points MLflow has not taken; replayed on start.
        model_id: the LoggedModel that all points are about, if there is one.
        environment: variables that MLflow reads, of the shell that started the job.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        spool: str,
        model_id: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        os.environ.update({**(environment or {}), "MLFLOW_TRACKING_URI": uri})
        self._run_id, self._spool = run_id, Path(spool)
        # Two, since a store may refuse files while the server takes points.
        self._points, self._files = _Queue(), _Queue()
        self._steps: dict[str, set[int]] = {}
        self._before: dict[tuple[str, str], int] = {}
        self._state: ProgressState | None = None
        self._epochs: dict[int, dict[str, float]] = {}
        self._run_start = 0.0
        self._stop_requested = False
        self._spooling, self._unsent, self._line_is_open = threading.Lock(), 0, False
        self._given_up = 0
        for each in (self._points, self._files):
            threading.Thread(target=self._drain, args=(each,), daemon=True, name="mlflow").start()
        self._model_id = model_id
        self._replay()

    @functools.cached_property
    def _client(self) -> Any:
        """MLflow's client: imported by the thread that sends, when there is something to send."""
        return client.mlflow_client()

    def log(self, points: Sequence[Point], sender: str = "") -> None:
        """Queue metric points (name, value, images seen).

        One sender's points are taken in any order: what a killed writer had not answered may come
        again after what followed it. Another sender's points are taken only beyond the last step
        logged before: a resumed run repeats what came after its checkpoint. A validation's are
        taken in any order, whoever sends them: one that failed is made again by a later command.
        """
        with self._spooling:
            self._unsent += 1
            self._keep(points)
        self._points.put(lambda: self._send(points, sender))

    def system_metrics(self, node: str, values: Mapping[str, float]) -> None:
        """Queue numbers of one machine, which MLflow shows under "System metrics"."""
        now = time.time()
        self._points.put(lambda: self._send_system_metrics(node, values, now))

    def table(self, columns: Mapping[str, Sequence[Any]], path: str) -> None:
        """Queue a table artifact, shown by MLflow's table view: numbers to four decimals.

        Args:
            columns: values by name; all of one length.
            path: of the artifact, ending in .json; an earlier one is replaced.
        """
        import pandas as pd

        frame = pd.DataFrame(dict(columns))
        content = frame.to_json(orient="split", index=False, double_precision=4).encode()
        self._files.put(lambda: self._log_table(content, path))

    def artifact(self, content: bytes, path: str) -> None:
        """Queue a file artifact."""
        self._files.put(lambda: self._log_bytes(content, path))

    def tag(self, key: str, value: str, of: tuple[str, int] | None = None) -> None:
        """Queue a tag of the run; "mlflow.note.content" is its description, in Markdown.

        One ``of`` a metric and step is left out where the metric has a later step.
        """
        self._points.put(lambda: self._tag(key, value, of))

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        """Queue a file artifact made of the one before it; ``change`` may be called again."""
        self._files.put(lambda: self._update(path, change))

    def progress(self, state: ProgressState) -> None:
        """Store where training is; the driver polls `state`."""
        self._state = state

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """Add to what is known of an epoch; the driver polls `epochs`."""
        self._epochs.setdefault(number, {}).update(values)

    def epochs(self) -> dict[int, dict[str, float]]:
        """Return what is known of every epoch since this process began."""
        return self._epochs

    def state(self) -> ProgressState | None:
        """Return the last `progress`, None before the first."""
        return self._state

    def request_stop(self) -> None:
        """Ask the workers to save and stop; they poll `stop_requested`."""
        self._stop_requested = True

    def stop_requested(self) -> bool:
        """Return whether `request_stop` was called."""
        return self._stop_requested

    def flush(self, timeout: float = 60.0) -> int:
        """Wait until everything queued was sent; return how many items were not or never will."""
        deadline = time.monotonic() + timeout
        while (left := self._waiting()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left + self._given_up

    def _waiting(self) -> int:
        return self._points.unfinished_tasks + self._files.unfinished_tasks

    def _drain(self, waiting: _Queue) -> None:
        while True:
            send = waiting.get()
            while not self._sent(send):
                # Order is kept: what came later waits behind the one that failed.
                time.sleep(_RETRY_SECONDS)
            waiting.task_done()

    def _sent(self, send: Callable[[], None]) -> bool:
        """Send one item, or give it up; False if it has to be tried again."""
        try:
            send()
        except Exception as error:  # training must survive whatever a tracking server does
            lasting = is_lasting(error) or isinstance(error, _NotMade)
            then = "given up" if lasting else "will retry"
            info(f"MLflow: {first_line(error)}; {then}", "WARNING")
            with self._spooling:
                self._given_up += lasting
            return lasting
        return True

    def _send(self, points: Sequence[Point], sender: str) -> None:
        now = int(time.time() * 1000)
        fresh: dict[tuple[str, int], float] = {}
        for key, value, step in points:
            if self._is_fresh(key, step, sender):
                fresh.setdefault((key, step), value)
        batch = [(key, value, step) for (key, step), value in fresh.items()]
        # MLflow keeps the data set of a point only if the point is a model's.
        datasets = client.datasets_of(self._client.get_run(self._run_id)) if self._model_id else {}
        for begin in range(0, len(batch), _BATCH):
            self._send_batch(batch[begin : begin + _BATCH], now, datasets)
        with self._spooling:
            self._unsent -= 1
            if not self._unsent:
                with contextlib.suppress(OSError):  # else what is sent would count as unsent
                    self._spool.unlink(missing_ok=True)

    def _send_batch(
        self, points: Sequence[Point], now: int, datasets: Mapping[str, tuple[str, str]]
    ) -> None:
        """Send as many points as MLflow takes at once; what it has taken is not sent again."""
        from mlflow.entities import Metric

        metric = functools.partial(Metric, model_id=self._model_id)
        metrics = [
            metric(key, value, now, step, **client.dataset_of_metric(key, datasets))
            for key, value, step in points
        ]
        try:
            self._client.log_batch(self._run_id, metrics=metrics)
        except Exception:
            for key, _, _ in points:  # it may have taken them all the same: ask before a retry
                self._steps.pop(key, None)
            raise
        for key, _, step in points:
            self._steps[key].add(step)

    def _send_system_metrics(self, node: str, values: Mapping[str, float], at: float) -> None:
        from mlflow.entities import Metric

        if not self._run_start:
            self._run_start = self._client.get_run(self._run_id).info.start_time / 1000
        # Seconds since the run was created: a resumed training continues the curve.
        step, now = round(at - self._run_start), round(at * 1000)
        metrics = [
            Metric(f"system/{node}/{name}", value, now, step) for name, value in values.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _tag(self, key: str, value: str, of: tuple[str, int] | None) -> None:
        if of is None or max(self._known(of[0]), default=-1) <= of[1]:
            self._client.set_tag(self._run_id, key, value)

    def _known(self, key: str) -> set[int]:
        if key not in self._steps:
            history = self._client.get_metric_history(self._run_id, key)
            self._steps[key] = {metric.step for metric in history}
        return self._steps[key]

    def _is_fresh(self, key: str, step: int, sender: str) -> bool:
        before = self._before.setdefault((sender, key), max(known := self._known(key), default=-1))
        return step not in known and (step > before or key.startswith(VALIDATED))

    def _keep(self, points: Sequence[Point]) -> None:
        """Append points to the spool; if the disk is full they are only in the queue."""
        was_open, self._line_is_open = self._line_is_open, True
        try:
            self._spool.parent.mkdir(parents=True, exist_ok=True)
            with open(self._spool, "a", encoding="utf-8") as spool:
                spool.write("\n" * was_open + json.dumps(list(points)) + "\n")
            self._line_is_open = False
        except OSError as error:
            if not was_open:  # once is enough
                info(f"points for MLflow are not kept for later: {error}", "WARNING")

    def _replay(self) -> None:
        """Queue the spool's points; the file is kept until MLflow has taken them."""
        if not self._spool.is_file():
            return
        text = self._spool.read_text(encoding="utf-8", errors="replace")
        self._line_is_open = not text.endswith("\n")  # its writer was killed
        points = list(dict.fromkeys(point for line in text.splitlines() for point in parse(line)))
        with self._spooling:
            self._unsent += 1
        self._points.put(lambda: self._send(points, ""))

    def _log_table(self, content: bytes, path: str) -> None:
        # MLflow's `log_table` appends to an existing table: a retry would double the rows.
        self._log_bytes(content, path)
        tag = self._client.get_run(self._run_id).data.tags.get(_TABLES, "[]")
        entry = {"path": path, "type": "table"}
        entries = [*(other for other in json.loads(tag) if other != entry), entry]
        while len(json.dumps(entries)) > _LONGEST_TAG:
            entries.pop(0)
        self._client.set_tag(self._run_id, _TABLES, json.dumps(entries))

    def _log_bytes(self, content: bytes, path: str) -> None:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / Path(path).name
            with scratch_space():
                file.write_bytes(content)
            self._client.log_artifact(self._run_id, str(file), str(Path(path).parent))

    def _update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        before = self._read(path)
        try:
            content = change(before)
        except Exception as error:  # the same again with every attempt
            raise _NotMade(f"{path} is not extended ({first_line(error)})") from error
        self._log_bytes(content, path)

    def _read(self, path: str) -> bytes | None:
        """Read an artifact; None if there is none."""
        try:
            files = self._client.list_artifacts(self._run_id, str(Path(path).parent))
        except Exception as error:
            if not is_missing_endpoint(error):
                raise
            self._client.get_run(self._run_id)  # raises the same if it is for the moment
            return None  # MLflow's client asks for logged models too, which an older server lacks
        if path not in (file.path for file in files):
            return None
        with tempfile.TemporaryDirectory() as directory:
            return Path(self._client.download_artifacts(self._run_id, path, directory)).read_bytes()


def spool_of(run_id: str) -> str:
    """Name the file of this machine that keeps a run's points until MLflow has taken them.

    That of 0.1.0, which anybody may put there, is moved to it if it is the user's own.
    """
    spool = private_directory() / f"mlflow-spool-{run_id}.jsonl"
    with contextlib.suppress(OSError):
        status = (old := Path(tempfile.gettempdir(), spool.name)).lstat()
        is_own = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
        if is_own and status.st_nlink == 1 and not spool.exists():
            old.rename(spool)
    return str(spool)
