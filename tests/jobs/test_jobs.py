"""The whole product as `ray submit` runs it: each script alone in an empty HOME.

One story in one order, because each job reads what the one before it wrote: make a dump, shard
it, train on two workers, evaluate. Every step is the real command line.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sharding.manifest import Dataset
from tests.support.home import SCRIPTS, Home

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Home:
    return Home(tmp_path_factory.mktemp("home"), ray_address)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_explains_itself(home: Home, script: Path) -> None:
    output = home.run(script.name, "--help")
    assert script.name in output
    assert len(output.splitlines()) > 10


def test_a_demo_dump_is_made(home: Home) -> None:
    home.run(
        "make_demo_dump.py",
        *("--output", "dump", "--train", "96", "--validation", "32", "--test", "32"),
    )
    assert (home.directory / "dump/2017_11/train/annotations-human.csv").is_file()


def test_the_dump_becomes_a_dataset(home: Home) -> None:
    output = home.run(
        "shard_openimages.py",
        *("--annotations", "dump", "--images", "dump/images"),
        *("--output", "dataset", "--images-per-shard", "20"),
    )
    rows = (home.directory / "dump/2017_11/train/annotations-human.csv").read_text().splitlines()
    annotated = len({row.partition(",")[0] for row in rows[1:]})
    assert f"{annotated} images in" in output
    dataset = Dataset.open(home.directory / "dataset")
    assert sum(shard.images for shard in dataset.shards("train")) == annotated


def train(home: Home, *more: str, status: int = 0) -> str:
    return home.run(
        "train_openimages.py",
        *("--preset", "demo", "--dataset", "dataset", "--name", "first", "--image-size", "64"),
        *more,
        status=status,
    )


def test_two_workers_train_on_it(home: Home) -> None:
    output = train(home, "--epochs", "1")
    assert "begins" in output
    assert re.search(r"epoch 1/1: loss \S+, mAP \S+ \(off \S+\), best ", output)
    assert re.search(r"best checkpoint .*\(epoch 1, mAP ", output)
    assert "mlflow ui" in output


def test_repeating_the_command_with_more_epochs_continues(home: Home) -> None:
    output = train(home, "--epochs", "2", "--async-validation")
    assert "epoch 2/2" in output
    assert "epoch 1/2" not in output
    assert "resuming after epoch 1" in output


def test_a_finished_run_is_left_as_it_is(home: Home) -> None:
    before = mlflow_run(home, "first").info
    output = train(home, "--epochs", "2")
    assert "already finished, 2 epochs; nothing was done" in output
    assert "Ray runs" not in output
    assert "best checkpoint" in output
    assert mlflow_run(home, "first").info == before


def mlflow_run(home: Home, name: str) -> Any:
    """The run of that name as MLflow has it."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home.directory / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    return runs[name]


def test_an_option_that_does_not_fit_is_one_line_with_its_fix(home: Home) -> None:
    output = train(home, "--batch-size", "31", status=2)
    assert output.strip() == (
        "error: batch size 31 does not divide over 2 workers. "
        "Fix: make --batch-size, which counts all workers, a multiple of 2"
    )


def test_another_configuration_under_the_same_name_is_refused(home: Home) -> None:
    output = train(home, "--seed", "5", status=2)
    assert "seed was 0, is 5" in output
    assert "Traceback" not in output


def test_the_run_is_evaluated_and_left_in_mlflow(home: Home) -> None:
    output = home.run(
        "evaluate_openimages.py",
        *("--checkpoint", "runs/first", "--dataset", "dataset", "--split", "test"),
        *("--boxes", "dump/ground_truth/test-boxes.csv", "--register", "shapes"),
    )
    assert "BoostLU on" in output
    assert "pointing game" in output
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home.directory / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    training = runs.pop("first")
    (evaluation,) = runs.values()
    assert training.info.status == evaluation.info.status == "FINISHED"
    assert training.data.tags["resumed_from"].startswith("checkpoint_"), "its second epoch was"
    assert evaluation.data.tags["mlflow.parentRunId"] == training.info.run_id
    history = client.get_metric_history(training.info.run_id, "val/mAP/all")
    shards = Dataset.open(home.directory / "dataset").shards("train")
    images = sum(shard.images for shard in shards)
    assert [point.step for point in history] == [images, 2 * images]
    assert "test/mAP/all" in evaluation.data.metrics
    version = client.get_model_version_by_alias("shapes", "best")
    models = client.search_logged_models([experiment.experiment_id])
    assert {model.source_run_id for model in models} == {training.info.run_id}
    (model,) = (model for model in models if model.tags["weights"] == "copied")
    (entry,) = json.loads(model.tags["mlflow.modelVersions"])
    assert (entry["name"], str(entry["version"])) == ("shapes", str(version.version))
    linked = {metric.key: metric.value for metric in model.metrics}
    assert linked["val/mAP/all"] in [point.value for point in history]
    assert linked["test/mAP/all"] == evaluation.data.metrics["test/mAP/all"]
    assert 0 <= linked["test/pointing_game/all"] <= 1
    artifacts = {file.path for file in client.list_artifacts(training.info.run_id)}
    assert {"config.json", "eval", "cam", "candidates"} <= artifacts
    assert "images" not in artifacts, "MLflow would open on the empty panels of an image series"


def test_its_label_candidates_are_judged_and_exported(home: Home) -> None:
    output = home.run(
        "export_candidates.py",
        *("--run", "runs/first", "--truth", "dump/ground_truth", "--top", "5"),
    )
    assert "of 5 exported are right" in output
    folder = home.directory / "export-first-epoch-002"
    assert len((folder / "train.csv").read_text().splitlines()) == 6
    assert (folder / "sheet.html").read_text().count("<article") == 5
    output = home.run(
        "reshard_openimages.py", "--dataset", "dataset", "--annotations", "export-first-epoch-002"
    )
    assert "5 added" in output


def test_a_dataset_without_manifest_is_one_line(home: Home) -> None:
    (home.directory / "empty").mkdir(exist_ok=True)
    output = home.run("train_openimages.py", "--dataset", "empty", "--name", "x", status=2)
    assert "dataset.json: not a dataset" in output
    assert "Traceback" not in output


def test_a_checkpoint_of_another_class_list_is_refused(home: Home) -> None:
    run = home.directory / "runs/first"
    checkpoint = max(run.glob("checkpoint_2*"))
    other = shutil.copytree(checkpoint, home.directory / "other", dirs_exist_ok=True)
    meta = json.loads((other / "meta.json").read_text())
    (other / "meta.json").write_text(json.dumps({**meta, "classes_sha256": "f" * 64}))
    output = home.run(
        "evaluate_openimages.py", "--checkpoint", "other", "--dataset", "dataset", status=2
    )
    assert "ffffffffffff" in output
    assert "Traceback" not in output
