"""A study trains its rows side by side; killed in between, the same command ends the same."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from mlflow.tracking import MlflowClient

from pipeline.cluster import session
from sharding.dataset.quarantine import Quarantine
from sharding.layout import QUARANTINE_FILE
from tests.support import jobs
from tests.support.home import Home
from tests.support.models import BACKBONE
from tests.support.waiting import wait_until

pytestmark = pytest.mark.ray

SMALL = (
    *("workers=1", "cpus_per_worker=1", "epochs=1", "image_size=64", "batch_size=16"),
    *(f"backbone={BACKBONE}", "learning_rate=1e-3", "candidates_per_epoch=0", "log_model=off"),
)


ROWS = ("an@1/1", "asl@1/5")
RUNS = {"an-boost1-seed0-draw0", "asl-boost1-seed0-draw0"}


class Studies:
    """Studies of the same rows in directories of their own."""

    def __init__(self, home: Home, dataset: Path) -> None:
        self.home, self.dataset = home, dataset

    def options(
        self,
        name: str,
        rows: Sequence[str] = ROWS,
        train: Sequence[str] = SMALL,
        draws: Sequence[str] = ("--draw-per-seed",),
    ) -> list[str]:
        return [
            *("--dataset", str(self.dataset), "--output", name, "--rows", *rows),
            *("--seeds", "1", *draws, "--train", *train, "--at-once", "2"),
        ]

    def killed(self, name: str) -> dict[str, bytes]:
        """Kill a study when its first run has ended; return the results that it leaves."""
        with open(self.home.directory / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "study_openimages.py", *self.options(name)],
                cwd=self.home.directory,
                env=self.home.environment,
                stdout=log,
                stderr=log,
            )
            results = self.home.directory / name / "results"
            wait_until(
                lambda: list(results.glob("*.json")) or process.poll() is not None, every=0.1
            )
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert not (self.home.directory / name / "study.md").exists()
        return {path.name: path.read_bytes() for path in results.glob("*.json")}

    def numbers(self, name: str) -> list[dict[str, str]]:
        with open(self.home.directory / name / "study.csv", newline="") as file:
            return [
                {key: value for key, value in row.items() if key != "seconds"}
                for row in csv.DictReader(file)
            ]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory, squares: Path, empty_store: Path) -> Studies:
    home = Home(tmp_path_factory.mktemp("home"))
    shutil.copy(empty_store, home.directory / "mlflow.db")
    # A copy: the study adds label versions to its dataset.
    dataset = Path(shutil.copytree(squares, tmp_path_factory.mktemp("data") / "squares"))
    Quarantine().write(dataset / QUARANTINE_FILE)
    return Studies(home, dataset)


class Run(Protocol):
    """Run a study in this process, where it may not need Ray; return all it printed."""

    def __call__(self, options: Sequence[str], status: int = 0) -> str: ...


@pytest.fixture
def without_ray(
    studies: Studies, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.chdir(studies.home.directory)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(session, "connect", lambda *_, **__: pytest.fail("Ray started"))

    def run(options: Sequence[str], status: int = 0) -> str:
        assert jobs.run(shlex.join(["study", *options])) == status
        shown = capsys.readouterr()
        return shown.out + shown.err

    return run


def mlflow_runs(home: Home) -> list[Any]:
    client = MlflowClient(f"sqlite:///{home.directory / 'mlflow.db'}")
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def test_killed_midway_it_ends_with_the_same_table(studies: Studies) -> None:
    finished = studies.killed("killed")
    output = studies.home.run("study_openimages.py", *studies.options("killed"))
    assert "tables    " in output
    assert "Trial " not in output
    results = studies.home.directory / "killed/results"
    assert finished == {name: (results / name).read_bytes() for name in finished}
    # What the kill cut short is as in a study that nothing disturbed; a row whose training diverges
    # changes nothing of the others, and is told.
    found = studies.numbers("killed")
    cut = [row["row"] for row in found if not any(row["run"] in name for name in finished)]
    rows = (*(cut or ROWS[:1]), "an:learning_rate=1e30@1/1")  # both may have ended by chance
    output = studies.home.run("study_openimages.py", *studies.options("whole", rows))
    assert "diverged" in output
    assert "the loss is nan" in output
    *whole, lost = studies.numbers("whole")
    assert whole == [row for row in found if row["row"] in rows]
    assert lost["status"] == "diverged"
    assert "the loss is nan" in lost["reason"]
    assert [row["status"] for row in found] == ["finished"] * 2
    assert {row["run"] for row in found} == RUNS
    for name in ("study.md", "study.tex", "study.png"):
        assert (studies.home.directory / "killed" / name).stat().st_size > 100


def test_a_finished_study_starts_nothing(studies: Studies, without_ray: Run) -> None:
    assert "asl@1/5" in without_ray(studies.options("killed"))


def test_its_runs_are_children_of_one_run(studies: Studies) -> None:
    found = mlflow_runs(studies.home)
    (parent,) = (run for run in found if run.info.run_name == "killed")
    children = [
        run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert len(children) == len(RUNS)
    assert {run.info.run_name for run in children} == RUNS
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    client = MlflowClient(f"sqlite:///{studies.home.directory / 'mlflow.db'}")
    kept = {file.path for file in client.list_artifacts(parent.info.run_id, "study")}
    assert kept == {f"study/study.{kind}" for kind in ("md", "tex", "csv", "png")}
    assert set(parent.data.metrics) == {"mAP/an 1/1", "mAP/asl 1/5"}


def test_other_rows_of_the_same_runs_are_another_table(studies: Studies, without_ray: Run) -> None:
    before = studies.numbers("killed")
    without_ray(studies.options("killed", ROWS[1:]))
    assert studies.numbers("killed") == [row for row in before if row["row"] == ROWS[1]]


def test_another_configuration_in_the_same_directory_is_refused(
    studies: Studies, without_ray: Run
) -> None:
    options = studies.options("killed", train=(*SMALL, "image_size=96"))
    assert "data.image_size was 64, is 96" in without_ray(options, status=2)


def test_a_search_takes_the_best_on_validation_and_keeps_all_trials(
    studies: Studies, without_ray: Run
) -> None:
    command = [
        *studies.options("tuned", ("ll-r@1/1",), (*SMALL, "epochs=2"), draws=()),
        *("--tune", "delta_rel=0.02:2:log", "alpha=2:10", "--trials", "2"),
    ]
    output = studies.home.run("study_openimages.py", *command)
    raw = json.loads((studies.home.directory / "tuned/search.json").read_text())
    assert raw["split"] == "validation"
    assert raw["space"] == ["delta_rel=0.02:2:log", "alpha=2:10"]
    assert sorted(raw["trials"]) == ["trial-000", "trial-001"]
    assert {trial["status"] for trial in raw["trials"].values()} <= {"finished", "stopped"}
    best = max(raw["trials"], key=lambda name: max(raw["trials"][name]["scores"].values()))
    assert [row["row"] for row in studies.numbers("tuned")] == ["ll-r@1/1", raw["rows"][best]]
    assert f"best of the search: {raw['rows'][best]}" in output
    page = (studies.home.directory / "tuned/study.md").read_text()
    _, _, tried = page.partition("## Trials of the search")
    assert re.findall(r"^\| (trial-\d+)", tried, re.MULTILINE)[0] == best
    assert tried.count("| trial-") == 2
    tests = [run for run in mlflow_runs(studies.home) if run.info.run_name.startswith("test ")]
    owners = {run.data.tags["mlflow.parentRunId"] for run in tests}
    names = {run.info.run_id: run.info.run_name for run in mlflow_runs(studies.home)}
    assert not [names[owner] for owner in owners if names[owner].startswith("trial-")]
    assert raw["rows"][best] in without_ray(command)
