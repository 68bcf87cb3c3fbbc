"""What the driver makes sure of: a run in MLflow says what it runs on, and what it went on from."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from pipeline import cluster, launch, tracking
from pipeline.config import TrainConfig
from sharding.manifest import Dataset


def test_tags_are_those_of_the_latest_command(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    dataset, run = Dataset.open(squares), tmp_path / "runs/a"
    told = []
    for workers, job, last in (("1", "01000000", ""), ("2", "02000000", "checkpoint_1")):
        if last:
            run.mkdir(parents=True)
            listed = {"latest_checkpoint_result": {"checkpoint_dir_name": last}}
            (run / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
        monkeypatch.setattr(cluster, "job_id", lambda job=job: job)
        config = TrainConfig(dataset=str(squares), workers=workers)
        run_id = launch.open_run(config, dataset, str(run), resumed=bool(last))
        tracking.close_run(run_id, "KILLED")
        told.append((run_id, MlflowClient(uri).get_run(run_id).data.tags))
    (first_id, first), (second_id, second) = told
    assert first_id == second_id
    assert (first["world_size"], first["ray_job_id"]) == ("1", "01000000")
    assert (second["world_size"], second["ray_job_id"]) == ("2", "02000000")
    assert "resumed_from" not in first
    assert second["resumed_from"] == "checkpoint_1"
    assert second["package_version"] == metadata.version("openimages-boostlu")
    assert second["dataset_digest"] == dataset.digest
    assert second["mlflow.runName"] == first["mlflow.runName"] == config.run_name
