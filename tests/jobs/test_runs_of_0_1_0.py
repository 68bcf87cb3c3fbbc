"""A run of release 0.1.0 goes on by its own command, and is evaluated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pipeline.models import checkpoint
from tests.support.home import Home
from tests.support.release import unpack

pytestmark = pytest.mark.ray
COMMAND = (
    *("--dataset", "keep", "--name", "first", "--backbone", "timm/test_efficientnet"),
    *("--method", "ll-cp", "--method-options", "delta_rel=10.0", "--image-size", "32"),
    *("--batch-size", "5", "--epochs", "2", "--learning-rate", "1e-3", "--dropout", "0.1"),
    *("--ema-decay", "0.9", "--checkpoint-every", "2", "--candidates-per-epoch", "10"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A folder with a dataset and a run killed within its second epoch, as if made there."""
    home = Home(tmp_path_factory.mktemp("home"))
    unpack("datasets_0_1_0", home.directory)
    unpack("checkpoints_0_1_0", home.directory)
    run = home.directory / "runs/first"
    for file in (run / "config.json", *run.glob("checkpoint_*/meta.json")):
        file.write_text(file.read_text().replace("/data/0.1.0", str(home.directory)))
    return home


@pytest.fixture(scope="module")
def expected(home: Home) -> dict[str, Any]:
    return json.loads((home.directory / "expected.json").read_text())


def test_it_is_evaluated(home: Home, expected: dict[str, Any]) -> None:
    home.run(
        "evaluate_openimages.py",
        *("--checkpoint", "runs/first", "--dataset", "keep", "--split", "validation"),
        *("--attribution", "0"),
    )
    (metrics,) = _metrics(home)
    assert {key: metrics[key] for key in expected["evaluation"]} == expected["evaluation"]


def test_its_command_goes_on_within_the_epoch(home: Home, expected: dict[str, Any]) -> None:
    run = home.directory / "runs/first"
    within = max(path.name for path in run.glob("checkpoint_2*"))
    assert checkpoint.read_meta(run / within).step > 0
    output = home.run("train_openimages.py", *COMMAND)
    assert " 2/2: " in output  # the driver looks every few seconds: it may miss so short an epoch
    assert "epoch 1/2" not in output
    assert [tags["resumed_from"] for tags in _tags(home) if "resumed_from" in tags] == [within]
    metas = map(checkpoint.read_meta, run.glob("checkpoint_2*"))
    last = max(metas, key=lambda meta: meta.epoch)
    assert (last.epoch, last.step, last.images_seen) == (2, 0, expected["images_seen"])
    metrics = {key: value for key, value in last.metrics.items() if value == value}
    assert metrics == pytest.approx(expected["metrics"])


def _metrics(home: Home) -> list[dict[str, float]]:
    return [run.data.metrics for run in _runs(home)]


def _tags(home: Home) -> list[dict[str, str]]:
    return [run.data.tags for run in _runs(home)]


def _runs(home: Home) -> list[Run]:
    client = MlflowClient(f"sqlite:///{home.directory / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))
