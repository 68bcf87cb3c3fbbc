"""A directory's run in MLflow is told from those of other clusters in the same place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.cluster import own_run
from pipeline.inference import locate
from pipeline.tracking import runs
from pipeline.tracking.client import mlflow_client
from sharding.errors import InputError
from tests.support.models import write_checkpoint

CHECKPOINT = "checkpoint_2026-01-01_00-00-00.000000"


@pytest.fixture(autouse=True)
def server(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (path := tmp_path / "data/runs/a").mkdir(parents=True)
    return path


def opened(run: Path, found: own_run.Found | None = None) -> str:
    found = found or own_run.Found()
    about = {"experiment": "tests", "name": "a", "params": {}, "tags": {}, "config": {}}
    run_id = runs.open_run(key=str(run), resume=found.by_path, own=found.run_id, **about)
    own_run.keep(str(run), run_id, found)
    return run_id


def again(run: Path) -> str:
    return opened(run, own_run.find(str(run)))


def test_a_directory_goes_on_in_the_run_that_was_opened_for_it(run: Path) -> None:
    first = opened(run)
    opened(run.parent / "b")
    (run / "mlflow.json").rename(run / "kept")
    assert opened(run) != first  # of another cluster, in the same place
    (run / "kept").rename(run / "mlflow.json")
    assert again(run) == first
    assert own_run.latest(str(run)) == first


def test_what_an_earlier_version_began_is_found_by_its_path(run: Path) -> None:
    first = opened(run)
    (run / "mlflow.json").unlink()
    assert own_run.latest(str(run)) == ""
    assert again(run) == first == own_run.latest(str(run))


@pytest.mark.parametrize("text", ["", "{", "7", "[]"])
def test_a_damaged_list_counts_as_none(run: Path, text: str) -> None:
    first = opened(run)
    (run / "mlflow.json").write_text(text)
    assert again(run) == first


def test_a_deleted_run_is_begun_anew_and_an_older_one_is_left_alone(run: Path) -> None:
    older = opened(run)
    (run / "mlflow.json").unlink()  # its directory was removed
    first = opened(run)
    mlflow_client().delete_run(first)
    second = again(run)
    assert second not in (older, first)
    assert again(run) == second


def test_a_directory_that_goes_from_server_to_server_has_one_run_in_each(
    run: Path, server: str, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, run)}")
    second = again(run)
    assert again(run) == second != first
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert again(run) == first


@pytest.mark.parametrize("is_copy", [True, False])
def test_what_was_moved_takes_its_run_along_and_a_copy_begins_one(
    run: Path, tmp_path: Path, is_copy: bool
) -> None:
    first, other = opened(run), tmp_path / "other"
    shutil.copytree(run, other) if is_copy else run.rename(other)
    found = own_run.find(str(other))
    assert (found.run_id, found.copied_from) == (("", first) if is_copy else (first, ""))
    second = opened(other, found)
    if is_copy:
        shutil.rmtree(run)  # the copy keeps what it got
    assert again(other) == second


def test_a_run_is_not_taken_for_another_one_in_its_place(run: Path, squares: Path) -> None:
    theirs, ours = opened(run), opened(run)
    write_checkpoint(run / CHECKPOINT, squares, run_id=ours)
    result = {"checkpoint_dir_name": CHECKPOINT, "metrics": {"score": 0.5}, "version": 0}
    (run / "checkpoint_manager_snapshot.json").write_text(
        json.dumps({"checkpoint_results": [result], "latest_checkpoint_result": result})
    )
    for _ in range(2):
        with pytest.raises(InputError, match=f"another run than {theirs}: {ours}"):
            own_run.check(str(run), theirs)
        with pytest.raises(InputError, match=f"another run than {theirs}"):
            locate.checkpoint_directory(f"runs:/{theirs}")
        own_run.check(str(run), ours)
        (run / "mlflow.json").unlink(missing_ok=True)  # as 0.2.0 leaves it
