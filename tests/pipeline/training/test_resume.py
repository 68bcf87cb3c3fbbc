"""Killed or told to end in the middle: the same command ends in the same weights."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pipeline.cluster import checkpoints
from pipeline.models import checkpoint
from sharding.errors import InputError
from tests.support.home import Home

pytestmark = pytest.mark.ray
EPOCHS, STEPS = 3, 12
OFTEN = ("--checkpoint-every", "2")


class Runs:
    """Trainings on the same data and seed, under different names and different luck."""

    def __init__(self, home: Home, dataset: Path) -> None:
        self.home, self.dataset = home, dataset

    def command(self, name: str, *more: str) -> list[str]:
        return [
            *("--preset", "demo", "--dataset", str(self.dataset), "--name", name),
            *("--epochs", str(EPOCHS), "--image-size", "96", "--batch-size", "8", *more),
        ]

    def start(self, name: str, *more: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = self.home.directory / f"{name}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "train_openimages.py", *self.command(name, *more)],
                cwd=self.home.directory,
                env=self.home.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, log

    def position(self, name: str) -> tuple[int, int]:
        """(epochs finished, steps of the next) of the last checkpoint that Ray took note of."""
        directory = self.home.directory / "runs" / name
        snapshot = directory / "checkpoint_manager_snapshot.json"
        noted = snapshot.read_text() if snapshot.is_file() else ""
        found = [(0, 0)]
        for path in directory.glob("checkpoint_2*/meta.json"):
            with contextlib.suppress(InputError):  # just now removed
                meta = checkpoint.read_meta(path.parent)
                if path.parent.name in noted:
                    found.append((meta.epoch, meta.step))
        return max(found)

    def last(self, name: str) -> tuple[checkpoint.Meta, dict[str, Any], dict[str, Any]]:
        # An upload that a kill cut short may lie beside them.
        found = (self.home.directory / "runs" / name).glob("checkpoint_2*/meta.json")
        directory = max(
            (path.parent for path in found), key=lambda path: checkpoint.read_meta(path).epoch
        )
        weights = torch.load(directory / "model.pt", weights_only=True)
        return checkpoint.read_meta(directory), weights, checkpoint.load_training(directory)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, squares: Path, empty_store: Path) -> Runs:
    runs = Runs(Home(tmp_path_factory.mktemp("home")), squares)
    shutil.copy(empty_store, runs.home.directory / "mlflow.db")
    runs.home.run("train_openimages.py", *runs.command("undisturbed"))
    return runs


def wait_for(arrived: Callable[[], bool], log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while not arrived():
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
        time.sleep(0.1)


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """List the processes of Ray's training workers below a driver."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a driver; wait for all that it started to end, the list's writer among them."""
    below = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(below, timeout=60)


def assert_equal_to_undisturbed(runs: Runs, name: str) -> None:
    meta, weights, training = runs.last(name)
    expected_meta, expected_weights, expected_training = runs.last("undisturbed")
    assert meta.epoch == expected_meta.epoch == EPOCHS
    assert meta.images_seen == expected_meta.images_seen == EPOCHS * 96
    assert meta.metrics == expected_meta.metrics
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[key], expected_weights[key]) for key in weights)
    moments = training["optimizer"]["state"]
    for key, state in expected_training["optimizer"]["state"].items():
        assert torch.equal(moments[key]["exp_avg_sq"], state["exp_avg_sq"])


def tracked(runs: Runs, name: str) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(f"sqlite:///{runs.home.directory / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    found = client.search_runs(
        [experiment.experiment_id], filter_string=f"attributes.run_name = '{name}'"
    )
    return client, list(found)


def curves(runs: Runs, name: str) -> dict[str, list[tuple[int, float]]]:
    """(images seen, value) of what does not tell of time, by name, in the order written."""
    client, found = tracked(runs, name)
    assert [run.info.status for run in found] == ["FINISHED"]
    return {
        key: [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)
        ]
        for run in found
        for key in ("train/loss", "train/lr", "train/modified_fraction", "val/mAP/all")
    }


def assert_one_curve(runs: Runs, name: str) -> None:
    found = curves(runs, name)
    for points in found.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps))
        assert steps[-1] == EPOCHS * 96
    assert found == curves(runs, "undisturbed")


def test_sigterm_ends_in_a_checkpoint_of_the_last_step(runs: Runs) -> None:
    """The first of three faults of one run, which then ends as the one that had none."""
    process, log = runs.start("interrupted")
    # A worker asks at its first step, so all stop long before the epoch ends.
    wait_for(lambda: bool(workers_of(process)), log, process)
    process.terminate()
    assert process.wait(600) == os.EX_TEMPFAIL, log.read_text(errors="replace")[-4000:]
    assert "repeat the command to go on" in log.read_text(errors="replace").splitlines()[-1]
    # No checkpoint within an epoch was asked for but by the signal.
    (made,) = (runs.home.directory / "runs/interrupted").glob("checkpoint_2*/meta.json")
    meta = checkpoint.read_meta(made.parent)
    assert runs.position("interrupted") == (meta.epoch, meta.step)
    assert meta.epoch == 0
    assert 0 < meta.step < STEPS
    assert [run.info.status for run in tracked(runs, "interrupted")[1]] == ["KILLED"]


def test_driver_killed_within_an_epoch(runs: Runs) -> None:
    _, step = runs.position("interrupted")
    process, log = runs.start("interrupted", *OFTEN)
    wait_for(lambda: runs.position("interrupted") > (1, 0), log, process)
    kill_all(process)
    assert f"resuming epoch 1, step {step}" in log.read_text(errors="replace")


def test_a_list_and_a_checkpoint_that_a_kill_left_half_written(runs: Runs) -> None:
    """The end of the run of which the test before killed the driver."""
    directory = runs.home.directory / "runs/interrupted"
    there = [path for path in directory.glob("checkpoint_2*") if checkpoints.is_whole(str(path))]
    assert there, "the driver was killed behind its first checkpoint"
    last = max((checkpoint.read_meta(path) for path in there), key=lambda meta: meta.images_seen)
    (directory / "checkpoint_manager_snapshot.json").write_bytes(b"")
    half = directory / "checkpoint_2026-01-01_00-00-00.000000"
    half.mkdir()
    (half / "model.pt").write_bytes(b"PK")
    output = runs.home.run("train_openimages.py", *runs.command("interrupted", *OFTEN))
    assert "rebuilt from" in output
    assert f"resuming epoch {last.epoch + 1}, step {last.step}" in output
    assert f"epoch 1/{EPOCHS}" not in output
    assert not half.exists()
    assert_equal_to_undisturbed(runs, "interrupted")
    assert_one_curve(runs, "interrupted")


def test_a_loss_that_is_not_finite_ends_in_code_3(runs: Runs) -> None:
    command = runs.command("diverged", "--learning-rate", "1e30")
    output = runs.home.run("train_openimages.py", *command, status=3)
    last = output.splitlines()[-1]
    assert "error: epoch 1: the loss is nan at step 2; there is no checkpoint yet in " in last
    assert "Traceback" not in output
    assert [run.info.status for run in tracked(runs, "diverged")[1]] == ["FAILED"]


def test_a_storage_that_was_gone_and_a_dead_worker_change_nothing(
    runs: Runs,
) -> None:
    process, log = runs.start("storage-gone", *OFTEN)
    wait_for(lambda: runs.position("storage-gone") > (1, 0), log, process)
    directory = runs.home.directory / "runs" / "storage-gone"
    aside = directory.rename(directory.with_name("aside"))
    directory.touch()  # nothing can be written below a file, whoever tries
    wait_for(lambda: "the storage fails (" in log.read_text(errors="replace"), log, process)
    directory.unlink()
    aside.rename(directory)
    before = runs.position("storage-gone")
    wait_for(lambda: runs.position("storage-gone") > before, log, process)
    assert "the storage takes bytes again" in log.read_text(errors="replace")
    workers = workers_of(process)
    assert len(workers) == 2
    workers[1].kill()
    assert process.wait(600) == 0, log.read_text(errors="replace")[-4000:]
    assert_equal_to_undisturbed(runs, "storage-gone")
    assert_one_curve(runs, "storage-gone")
