"""The writer of a run: what MLflow took without an answer, or before an error, is sent once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import writer as tracking_writer
from pipeline.tracking.client import mlflow_client, tracking_uri
from pipeline.tracking.writer import RunWriter

KEY = "train/loss"


@pytest.fixture
def run_id(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    monkeypatch.setattr(tracking_writer, "_RETRY_SECONDS", 0.01)
    client = mlflow_client()
    return str(client.create_run(client.create_experiment("tests")).info.run_id)


class Client:
    """MLflow's client, of which one call of `log_batch` raises, before or after it was served."""

    def __init__(self, failing: int, *, served: bool) -> None:
        self.client, self.failing, self.served, self.calls = mlflow_client(), failing, served, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def log_batch(self, *arguments: Any, **options: Any) -> None:
        self.calls += 1
        if self.calls != self.failing or self.served:
            self.client.log_batch(*arguments, **options)
        if self.calls == self.failing:
            raise ConnectionError("no answer")


@pytest.mark.parametrize("served", [True, False])
def test_a_long_replay_goes_on_where_it_failed(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    monkeypatch.setattr(tracking_writer, "_BATCH", 100)
    client = Client(failing=4, served=served)
    monkeypatch.setattr(tracking_writer.client, "mlflow_client", lambda: client)
    spool = tmp_path / "spool.jsonl"
    spool.write_text("".join(f'[["{KEY}", 0.5, {step}]]\n' for step in range(600)))
    assert RunWriter(tracking_uri(), run_id, str(spool)).flush(60) == 0
    history = client.get_metric_history(run_id, KEY)
    assert [point.step for point in history] == list(range(600))
    assert client.calls == (6 if served else 7)


def test_a_shell_that_asks_for_asynchronous_logging_loses_no_point(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "false")  # as it is again afterwards
    mlflow_client().delete_run(run_id)
    environment = {"MLFLOW_ENABLE_ASYNC_LOGGING": "true"}
    spool = tmp_path / "spool.jsonl"
    writer = RunWriter(tracking_uri(), run_id, str(spool), environment=environment)
    writer.log([(KEY, 0.5, 1)])
    assert writer.flush(0.5) == 1
    assert spool.exists()
    mlflow_client().restore_run(run_id)
    assert writer.flush(60) == 0
    assert [point.step for point in mlflow_client().get_metric_history(run_id, KEY)] == [1]


def test_of_two_values_at_a_step_the_first_is_kept(run_id: str, tmp_path: Path) -> None:
    writer = RunWriter(tracking_uri(), run_id, str(tmp_path / "spool.jsonl"))
    writer.log([(KEY, 0.5, 1), (KEY, 0.25, 1), (KEY, 0.125, 2)])
    assert writer.flush(60) == 0
    history = mlflow_client().get_metric_history(run_id, KEY)
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.125)]


def test_a_validation_that_is_made_later_is_logged(run_id: str, tmp_path: Path) -> None:
    """By a later command, or of what a killed one spooled; the description is the latest one's."""
    key, note, spool = "val/mAP/all", "mlflow.note.content", tmp_path / "spool.jsonl"

    def write(*steps: int, value: float = 0.5) -> None:
        writer = RunWriter(tracking_uri(), run_id, str(spool))
        for step in steps:
            writer.log([(key, value, step), ("val_no_boost/mAP/all", value, step)])
            writer.log([(KEY, value, step)])
            writer.tag(note, f"{step} with {value}", (key, step))
        assert writer.flush(60) == 0

    def steps_of(name: str) -> list[tuple[int, float]]:
        history = mlflow_client().get_metric_history(run_id, name)
        return sorted((point.step, point.value) for point in history)

    write(1, 4)
    write(2, value=0.25)
    write(4, value=0.75)
    spool.write_text(f'[["{key}", 0.125, 3], ["{KEY}", 0.125, 3]]\n')
    write()
    assert steps_of(key) == [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.5)]
    assert steps_of("val_no_boost/mAP/all") == [(1, 0.5), (2, 0.25), (4, 0.5)]
    assert steps_of(KEY) == [(1, 0.5), (4, 0.5)], "a training's are only taken beyond the last"
    assert mlflow_client().get_run(run_id).data.tags[note] == "4 with 0.75"
