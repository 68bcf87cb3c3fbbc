"""What the driver makes sure of: a run in MLflow says what it runs on, and what it went on from."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.cluster import session
from pipeline.config.train import TrainConfig
from pipeline.tracking import runs
from pipeline.training import prepare
from sharding.manifest import Dataset
from tests.support.models import write_checkpoint

CHECKPOINT = "checkpoint_2026-11-24_10-00-00.000000"


def test_tags_are_those_of_the_latest_command(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    dataset, run = Dataset.open(squares), tmp_path / "runs/a"
    told = []
    for workers, job, last in (("1", "01000000", ""), ("2", "02000000", CHECKPOINT)):
        if last:
            write_checkpoint(run / last, squares)
            # A later upload was cut: the run goes on from the one before.
            half = run / CHECKPOINT.replace("00.0", "01.0")
            half.mkdir()
            listed = {"latest_checkpoint_result": {"checkpoint_dir_name": half.name}}
            (run / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
        monkeypatch.setattr(session, "job_id", lambda job=job: job)
        config = TrainConfig(dataset=str(squares), workers=workers)
        run_id = prepare.open_run(config, dataset, str(run), resumed=bool(last))
        runs.close_run(run_id, "KILLED")
        told.append((run_id, MlflowClient(uri).get_run(run_id).data.tags))
    (first_id, first), (second_id, second) = told
    assert first_id == second_id
    assert (first["world_size"], first["ray_job_id"]) == ("1", "01000000")
    assert (second["world_size"], second["ray_job_id"]) == ("2", "02000000")
    assert "resumed_from" not in first
    assert second["resumed_from"] == CHECKPOINT
    assert second["package_version"] == metadata.version("openimages-boostlu")
    assert second["dataset_digest"] == dataset.digest
    assert second["mlflow.runName"] == first["mlflow.runName"] == config.run_name
