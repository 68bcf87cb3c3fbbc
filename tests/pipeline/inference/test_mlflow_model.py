"""A training's best checkpoint as an MLflow model: by link, by copy, never in the way."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

import pipeline
from pipeline.inference import locate, mlflow_model
from pipeline.tracking import client, registry, runs, writer
from sharding.errors import InputError
from tests.pipeline.inference.test_predictor import jpegs
from tests.pipeline.models.test_operating_points import give
from tests.support.models import write_checkpoint

DIGEST = "d" * 36


@pytest.fixture
def saved(squares: Path, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", squares)


@pytest.fixture
def run_id(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A training that validated at 48 and at 96 images."""
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_id = runs.open_run(
        experiment="tests",
        name="a",
        key="/runs/a",
        resume=False,
        params={},
        tags={"licence": "cc-by-4.0", "preset": "coco", "world_size": "2"},
        config={},
        inputs=[
            runs.TableInput(
                context="validation",
                path="/set/labels/first/validation.parquet",
                digest=DIGEST,
            )
        ],
    )
    tracker = writer.RunWriter(uri, run_id, str(tmp_path / "spool"))
    tracker.log([("val/mAP/all", 0.25, 48), ("val/mAP/all", 0.5, 96), ("train/loss", 2.0, 96)])
    assert tracker.flush(30) == 0
    return run_id


def model_of(model_id: str) -> Any:
    return client.mlflow_client().get_logged_model(model_id)


def weights_of(model_id: str) -> list[str]:
    found = Path(registry.download(f"models:/{model_id}"))
    return sorted(path.name for path in (found / locate.IN_MODEL).iterdir())


def test_metrics_come_with_the_data_they_were_measured_on(run_id: str, saved: Path) -> None:
    model = model_of(mlflow_model.log_model(run_id, str(saved), copy=False))
    assert model.status == "READY"
    assert "### Intended use" in model.tags["mlflow.note.content"]
    assert (model.tags["licence"], model.tags["preset"]) == ("cc-by-4.0", "coco")
    assert "world_size" not in model.tags
    assert {(m.key, m.value, m.dataset_name, m.dataset_digest) for m in model.metrics} == {
        ("val/mAP/all", 0.5, "set/first/validation", DIGEST),
        ("train/loss", 2.0, None, None),
    }
    (output,) = client.mlflow_client().get_run(run_id).outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, 96)


def test_no_file_of_a_model_is_empty() -> None:
    """MLflow sends an empty one in chunks, and a proxy that reads none waits for ever."""
    folders = [Path(package.__file__ or "").parent for package in mlflow_model._PACKAGES]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert [path for path in files if not path.stat().st_size] == []


def test_a_link_answers_like_its_checkpoint(run_id: str, saved: Path, squares: Path) -> None:
    import mlflow
    import pandas as pd

    model_id = mlflow_model.log_model(run_id, str(saved), copy=False)
    assert weights_of(model_id) == ["link.json"]
    content = next(iter(jpegs(squares).values()))
    (expected,) = pipeline.load(str(saved)).predict([content])
    (found,) = pipeline.load(f"models:/{model_id}").predict([content])
    assert np.array_equal(found.scores_K, expected.scores_K)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # whoever serves it sees no advice to us
        served = mlflow.pyfunc.load_model(registry.download(f"models:/{model_id}"))
    assert served.metadata.signature.params.params[0].name == "top_k"
    frame = pd.DataFrame({"image": [base64.b64encode(content).decode()]})
    assert served.predict(frame)[0]["labels"][0]["mid"] == expected.top(1)[0].mid


@contextlib.contextmanager
def served(model_id: str) -> Iterator[str]:
    """`mlflow models serve` on a port of its own; its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["models", "serve", "--model-uri", f"models:/{model_id}", "--env-manager", "local"]
    scripts = Path(sys.executable).parent  # MLflow starts uvicorn by its name
    process = subprocess.Popen(
        [str(scripts / "mlflow"), *command, "--host", "127.0.0.1", "--port", port],
        env={**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # uvicorn is a child of its child
    )
    try:
        for _ in range(1500):
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"http://127.0.0.1:{port}/ping", timeout=60).ok:
                    break
            assert process.poll() is None
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_a_served_model_answers_a_jpeg_over_http(run_id: str, saved: Path, squares: Path) -> None:
    model_id = mlflow_model.log_model(run_id, str(saved), copy=True)
    content = next(iter(jpegs(squares).values()))
    (expected,) = pipeline.load(str(saved)).predict([content])
    request = {
        "dataframe_records": [{"image": base64.b64encode(content).decode()}],
        "params": {"top_k": 2},
    }
    with served(model_id) as address:
        answer = requests.post(f"{address}/invocations", json=request, timeout=60)
        assert answer.status_code == 200, answer.text
        (prediction,) = answer.json()["predictions"]
        refused = requests.post(f"{address}/invocations", json={"images": []}, timeout=60)
        assert refused.status_code == 400
    labels = [(label["mid"], label["name"]) for label in prediction["labels"]]
    assert labels == [(top.mid, top.name) for top in expected.top(2)]
    scores = [label["score"] for label in prediction["labels"]]
    assert scores == pytest.approx([top.score for top in expected.top(2)], rel=1e-5)


_WITHOUT_OTHERS = """
import importlib.metadata as metadata, re, sys
from pathlib import Path

def named(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")

asked, there = [named(each) for each in sys.argv[3:]], set()
while asked:
    name = asked.pop()
    if name not in there:
        there.add(name)
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        asked += [named(each) for each in needed if "extra ==" not in each]
owners = {
    module: {named(owner) for owner in owned}
    for module, owned in metadata.packages_distributions().items()
}

def importer():
    frame = sys._getframe(2)
    while "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").partition(".")[0]

class Refuse:  # packages of others may try what they can do without
    def find_spec(self, name, path=None, target=None):
        owned = owners.get(name.partition(".")[0], set()) - {"openimages-boostlu"}
        if owned and not owned & there and importer() in ("pipeline", "sharding"):
            raise ModuleNotFoundError(f"not installed: {name}")

sys.meta_path.insert(0, Refuse())
import pipeline.inference.pyfunc
found = pipeline.load(sys.argv[1]).predict([Path(sys.argv[2]).read_bytes()])
print(len(found))
"""


def test_a_model_names_every_package_that_it_imports(
    run_id: str, saved: Path, squares: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(next(iter(jpegs(squares).values())))
    model_id = mlflow_model.log_model(run_id, str(saved), copy=False)
    folder = Path(registry.download(f"models:/{model_id}"))
    requirements = (folder / "requirements.txt").read_text().split()
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_OTHERS, str(saved), str(image), *requirements],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.split() == ["1"], done.stderr[-2000:]


def test_a_copy_outlives_its_checkpoint_and_a_link_does_not(run_id: str, saved: Path) -> None:
    model_id = mlflow_model.log_model(run_id, str(saved), copy=False)
    assert mlflow_model.log_model(run_id, str(saved), copy=True) == model_id
    assert weights_of(model_id) == ["link.json", "meta.json", "model.pt"]
    assert locate.checkpoint_directory(f"models:/{model_id}") == str(saved), "all workers see it"
    other = shutil.copytree(saved, saved.with_name("other"))
    linked = mlflow_model.log_model(run_id, str(other), copy=False)
    assert linked != model_id
    shutil.rmtree(saved)
    shutil.rmtree(other)
    assert locate.is_copy(locate.checkpoint_directory(f"models:/{model_id}"))
    pipeline.load(f"models:/{model_id}")
    with pytest.raises(InputError, match="is gone") as caught:
        pipeline.load(f"models:/{linked}")
    assert caught.value.file == str(other)


def test_a_checkpoint_that_cannot_be_read_costs_its_own_model_only(
    run_id: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, newer, gone = (saved.with_name(name) for name in ("damaged", "newer", "gone"))
    for directory in (damaged, newer):
        shutil.copytree(saved, directory)
    (damaged / "meta.json").write_text("{")
    meta = json.loads((newer / "meta.json").read_text())
    meta["config"]["data"]["mixup"] = 0.2
    (newer / "meta.json").write_text(json.dumps(meta))
    last = shutil.copytree(saved, saved.with_name("last"))
    kept = [str(directory) for directory in (damaged, saved, gone, newer, last)]
    mlflow_model.log_links(run_id, kept)
    (warning,) = capsys.readouterr().out.splitlines()
    names = ("damaged", "gone", "newer", "last")
    assert [name in warning for name in names] == [True, True, True, False]
    for directory in (saved, last):
        assert mlflow_model.find(run_id, str(directory))


def test_a_checkpoint_that_a_run_removes_meanwhile_is_no_fault_of_mlflow(
    run_id: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upload(*_: object) -> None:
        shutil.rmtree(saved)
        raise FileNotFoundError(saved / "model.pt")

    monkeypatch.setattr(mlflow_model, "_upload", upload)
    for _ in range(2):  # it is gone during the upload, and before
        with pytest.raises(InputError, match=r"has removed this checkpoint.*run's directory"):
            mlflow_model.log_model(run_id, str(saved), copy=True)


def test_new_thresholds_reach_a_copy(run_id: str, saved: Path, squares: Path) -> None:
    model_id = mlflow_model.log_model(run_id, str(saved), copy=True)
    other = shutil.copytree(saved, saved.with_name("other"))
    linked = mlflow_model.log_model(run_id, str(other), copy=False)
    for threshold, directory in ((0.5, saved), (0.25, saved), (0.75, other)):
        give(directory, squares, [threshold] * 8, 2.0)
        mlflow_model.add_thresholds(model_id if directory == saved else linked, str(directory))
    assert weights_of(linked) == ["link.json"]
    shutil.rmtree(saved)
    for model, threshold in ((model_id, 0.25), (linked, 0.75)):
        points = pipeline.load(f"models:/{model}").points
        assert points is not None
        assert set(points.thresholds) == {threshold}


def test_a_checkpoint_is_logged_once(run_id: str, saved: Path) -> None:
    assert mlflow_model.find(run_id, str(saved)) is None
    model_id = mlflow_model.log_model(run_id, str(saved), copy=True)
    for copy in (False, True):
        assert mlflow_model.log_model(run_id, str(saved), copy=copy) == model_id
    assert mlflow_model.find(run_id, str(saved)) == model_id


def test_a_finished_training_does_not_fail_for_it(
    run_id: str, saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_model.log_links(run_id, [])
    assert mlflow_model.find(run_id, str(saved)) is None
    other = str(shutil.copytree(saved, saved.with_name("other")))
    mlflow_model.log_links(run_id, [str(saved), other])
    found = [mlflow_model.find(run_id, directory) for directory in (str(saved), other)]
    assert None not in found
    assert len(set(found)) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow_model.log_links(run_id, [str(saved), other])
    output = capsys.readouterr().out
    assert output.startswith("MLflow: ")
    assert len(output.splitlines()) == 1


def test_a_server_without_logged_models_has_none(
    run_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

    def missing(*_: Any, **__: Any) -> None:
        raise MlflowException("failed with error code 404", ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(MlflowClient, "search_logged_models", missing)
    assert mlflow_model.find(run_id, "/runs/a") is None
    assert "no logged models" in capsys.readouterr().out
