"""Models in MLflow: what is logged loads elsewhere, says what it expects, and is found again."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import pipeline
from pipeline.inference import mlflow_model
from pipeline.tracking import registry, runs, writer
from pipeline.tracking.client import global_client, mlflow_client
from sharding.errors import InputError
from tests.pipeline.inference.test_predictor import jpegs
from tests.support.models import write_checkpoint

METRIC = "test/mAP/all"


@pytest.fixture(scope="module")
def saved(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("registry") / "checkpoint", squares)


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture(scope="module")
def logged(store: str, saved: Path) -> tuple[str, str]:
    """(run id, model id) of a model logged under a training's run."""
    run_id = runs.open_run(
        experiment="tests", name="a", key=str(saved), resume=False, params={}, tags={}, config={}
    )
    tracker = writer.RunWriter(store, run_id, str(saved.parent / "spool"))
    tracker.log([("val/mAP/all", 0.25, 48), ("val/mAP/all", 0.5, 96)])
    assert tracker.flush(30) == 0
    return run_id, mlflow_model.log_model(run_id, str(saved), copy=True)


def test_the_model_has_the_metrics_of_its_checkpoint(logged: tuple[str, str]) -> None:
    run_id, model_id = logged
    client = mlflow_client()
    model = client.get_logged_model(model_id)
    assert model.source_run_id == run_id
    assert {(m.key, m.value, m.step) for m in model.metrics} == {("val/mAP/all", 0.5, 96)}
    assert model.params["alpha"] == "5"
    assert model.name == "ll-r-boostlu-5-5-timm-test_resnet-seed0-epoch-1"
    # Linking repeats no point of the training's curve.
    assert len(client.get_metric_history(run_id, "val/mAP/all")) == 2


def test_it_answers_elsewhere_with_its_own_copy_of_the_code(
    logged: tuple[str, str], squares: Path, saved: Path, tmp_path: Path
) -> None:
    content = next(iter(jpegs(squares).values()))
    (tmp_path / "image").write_text(base64.b64encode(content).decode())
    script = (
        "import json, sys, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "frame = pd.DataFrame({'image': [open('image').read()]})\n"
        "found = model.predict(frame, params={'top_k': 3})\n"
        "import pipeline\n"
        "heavy = sorted({'ray', 'nvidia.dali'} & set(sys.modules))\n"
        "print(json.dumps([found, pipeline.__file__, heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"models:/{logged[1]}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, code, heavy = json.loads(done.stdout.splitlines()[-1])
    assert not code.startswith(str(Path(pipeline.__file__).parent))
    assert heavy == []
    (expected,) = pipeline.load(str(saved)).predict([content])
    labels = found[0]["labels"]
    assert [label["mid"] for label in labels] == [label.mid for label in expected.top(3)]
    assert np.allclose(
        [label["score"] for label in labels], [label.score for label in expected.top(3)], atol=1e-5
    )


def test_bad_requests_are_told_apart_from_faults(logged: tuple[str, str]) -> None:
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(registry.download(f"models:/{logged[1]}"))
    for text, output in (("%%%", "not base64"), ("bm9uZQ==", "not an image that can be decoded")):
        with pytest.raises(mlflow.MlflowException, match=output) as caught:
            model.predict(pd.DataFrame({"image": [text]}))
        assert caught.value.get_http_status_code() == 400
    with pytest.raises(mlflow.MlflowException, match="missing inputs"):
        model.predict(pd.DataFrame({"picture": ["bm9uZQ=="]}))


def test_the_alias_stays_with_the_best_version(logged: tuple[str, str]) -> None:
    run_id, model_id = logged

    def best() -> Any:
        return mlflow_client().get_model_version_by_alias("birds", registry.BEST).version

    found = []
    for value in (0.4, 0.6, 0.5):
        registry.register(model_id, "birds", {METRIC: value}, METRIC, run_id)
        found.append(int(best()))
    assert found == [1, 2, 2]
    # The model's own page leads to its versions.
    tags = mlflow_client().get_logged_model(model_id).tags
    assert {entry["name"] for entry in json.loads(tags["mlflow.modelVersions"])} == {"birds"}


def test_a_server_that_does_not_answer_for_a_moment_moves_no_alias(
    logged: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, model_id = logged
    registry.register(model_id, "geese", {METRIC: 0.6}, METRIC, run_id)

    def fail(*_: object) -> None:
        raise MlflowException("API request to http://h/api failed with exception: timed out")

    with monkeypatch.context() as dead:
        dead.setattr(MlflowClient, "get_model_version_by_alias", fail)
        with pytest.raises(InputError, match="does not answer"):
            registry.register(model_id, "geese", {METRIC: 0.5}, METRIC, run_id)
    best = mlflow_client().get_model_version_by_alias("geese", registry.BEST)
    assert int(best.version) == 1


def test_a_version_without_a_score_gives_way_to_any(logged: tuple[str, str]) -> None:
    run_id, model_id = logged
    found = []
    for value in (float("nan"), 0.4, float("nan"), 0.3):
        registry.register(model_id, "frogs", {METRIC: value}, METRIC, run_id)
        best = mlflow_client().get_model_version_by_alias("frogs", registry.BEST)
        found.append(int(best.version))
    assert found == [1, 2, 2, 2]
    assert METRIC not in mlflow_client().get_model_version("frogs", "3").tags


def test_a_version_without_a_score_gives_way_to_one_of_other_labels(
    logged: tuple[str, str],
) -> None:
    run_id, model_id = logged
    for value, judged_by in ((float("nan"), "a"), (0.4, "b")):
        registry.register(model_id, "toads", {METRIC: value}, METRIC, run_id, judged_by=judged_by)
    assert int(mlflow_client().get_model_version_by_alias("toads", registry.BEST).version) == 2


def test_scores_of_other_labels_move_no_alias(
    logged: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, model_id = logged
    found = []
    for value, judged_by in ((0.4, "a"), (0.9, "b"), (0.5, "a")):
        registry.register(model_id, "newts", {METRIC: value}, METRIC, run_id, judged_by=judged_by)
        best = mlflow_client().get_model_version_by_alias("newts", registry.BEST)
        found.append(int(best.version))
    assert found == [1, 1, 3]
    assert "stays with version 1: a does not compare with b" in capsys.readouterr().out


def test_descriptions_are_those_given_and_a_text_of_somebody_stays(logged: tuple[str, str]) -> None:
    run_id, model_id = logged
    client = mlflow_client()
    for value, card in ((0.4, "first"), (0.6, "second"), (0.5, "third")):
        registry.register(model_id, "fish", {METRIC: value}, METRIC, run_id, card + "x" * 6000)
    versions = [client.get_model_version("fish", str(n)).description for n in (1, 2, 3)]
    digest = client.get_logged_model(model_id).tags["dataset_digest"]
    assert client.get_model_version("fish", "1").tags == {
        METRIC: "0.400000",
        "dataset_digest": digest,
    }
    assert [text.partition("x")[0] for text in versions] == ["first", "second", "third"]
    assert {len(text) for text in versions} == {5000}, "databases take no more"
    assert client.get_registered_model("fish").description == versions[1], "the best one's"
    client.update_registered_model("fish", "by hand")
    registry.register(model_id, "fish", {METRIC: 0.9}, METRIC, run_id, "fourth")
    assert client.get_registered_model("fish").description == "by hand"


def test_models_are_loaded_by_any_of_their_names(
    logged: tuple[str, str], squares: Path, saved: Path
) -> None:
    run_id, model_id = logged
    registry.register(model_id, "cats", {}, METRIC, run_id)
    content = next(iter(jpegs(squares).values()))
    (expected,) = pipeline.load(str(saved)).predict([content])
    for uri in (f"models:/{model_id}", "models:/cats/1", "models:/cats@best", f"runs:/{run_id}"):
        (found,) = pipeline.load(uri).predict([content])
        assert np.array_equal(found.scores_K, expected.scores_K), uri


@pytest.mark.parametrize("uri", ["models:/nobody@best", "runs:/0123"])
def test_unknown_models_are_one_clear_error(store: str, uri: str) -> None:
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        pipeline.load(uri)


def test_a_process_that_changes_its_store_changes_its_registry(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.db", "b.db"):
        monkeypatch.setenv(
            "MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path / name)}"
        )
        global_client().create_registered_model("once")  # an error where it is already
