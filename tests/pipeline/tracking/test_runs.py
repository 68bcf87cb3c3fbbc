"""MLflow: one run per training, nothing logged twice, nothing lost, nobody waits."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.types import Schema

from pipeline.cluster import tasks
from pipeline.tracking import runs, source
from pipeline.tracking import writer as tracking_writer
from pipeline.tracking.client import global_client, mlflow_client, tracking_uri
from pipeline.tracking.source import code_tags
from pipeline.tracking.writer import RunWriter
from sharding.errors import InputError
from sharding.labels import SCHEMA
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    global_client()  # some of MLflow's functions remember what an earlier test set
    return uri


def open_run(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "experiment": "tests",
        "name": "a run",
        "key": "/runs/a",
        "resume": False,
        "params": {"method": "ll-r"},
        "tags": {"code_hash": "abc"},
        "config": {"method": "ll-r"},
        "inputs": [
            runs.TableInput(
                context="train",
                path="/data/labels/train.parquet",
                digest="0" * 64,
                profile={"positives": 3},
            )
        ],
    }
    return runs.open_run(**{**arguments, **changes})


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool.jsonl"


def writer_of(run_id: str, spool: Path) -> RunWriter:
    return RunWriter(tracking_uri(), run_id, str(spool))


@pytest.fixture
def run_id() -> str:
    return open_run()


@pytest.fixture
def writer(run_id: str, spool: Path) -> RunWriter:
    return writer_of(run_id, spool)


def steps_of(run_id: str) -> list[int]:
    return [point.step for point in mlflow_client().get_metric_history(run_id, "train/loss")]


def test_a_resumed_training_finds_its_run() -> None:
    first = open_run()
    runs.close_run(first, "FAILED")
    assert open_run(resume=True) == first
    assert mlflow_client().get_run(first).info.status == "RUNNING"
    assert open_run(resume=False) != first
    assert open_run(key="/runs/b", resume=True) != first


def test_a_moved_training_takes_its_run_along() -> None:
    first = open_run()
    assert open_run(key="/mnt/a", own=first) == first
    assert open_run(key="/mnt/a", resume=True) == first
    assert open_run(key="/mnt/b", resume=True) != first


def test_a_key_is_known_of_runs_that_are_there() -> None:
    first = open_run()
    assert runs.key_of(first) == "/runs/a"
    assert runs.key_of("0" * 32) is None
    mlflow_client().delete_run(first)
    assert runs.key_of(first) is None


def test_a_server_that_is_down_is_not_taken_to_have_no_such_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = open_run()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match="does not answer"):
        runs.key_of(first)


def test_run_carries_parameters_config_and_dataset() -> None:
    run = mlflow_client().get_run(open_run())
    assert run.data.params == {"method": "ll-r"}
    assert run.inputs.dataset_inputs[0].dataset.digest == "0" * 36
    assert run.inputs.dataset_inputs[0].tags[0].value == "train"
    described = run.inputs.dataset_inputs[0].dataset
    assert json.loads(described.profile) == {"positives": 3}
    columns = Schema.from_json(json.dumps(json.loads(described.schema)["mlflow_colspec"]))
    assert columns.input_names() == SCHEMA.names
    assert columns.input_types()[0].name == "string"
    (file,) = mlflow_client().list_artifacts(run.info.run_id)
    assert file.path == "config.json"


def test_an_experiment_says_that_models_are_trained_in_it() -> None:
    open_run()
    experiment = mlflow_client().get_experiment_by_name("tests")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    # One that somebody made by hand does so too, unless it has been told what it is.
    for name, kind in (("bare", None), ("named", "genai_development")):
        tags = {"mlflow.experimentKind": kind} if kind else {}
        mlflow_client().create_experiment(name, tags=tags)
        open_run(experiment=name)
        found = mlflow_client().get_experiment_by_name(name).tags["mlflow.experimentKind"]
        assert found == (kind or "custom_model_development")


def test_two_trainings_that_begin_at_once_share_experiment_and_data_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = open_run()
    store = mlflow_client()._tracking_client.store

    def blind_once(kind: type, name: str, answer: Any) -> None:
        """Let the first look miss the row that another process is about to make."""
        real, looks = getattr(kind, name), [answer]

        def look(self: Any, *arguments: Any, **named: Any) -> Any:
            return looks.pop() if looks else real(self, *arguments, **named)

        monkeypatch.setattr(kind, name, look)

    blind_once(type(mlflow_client()), "get_experiment_by_name", None)
    real_inputs, failures = type(store).log_inputs, [1, 1]

    def log_inputs(self: Any, *arguments: Any, **named: Any) -> None:
        if failures:
            failures.pop()
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets")
        real_inputs(self, *arguments, **named)

    monkeypatch.setattr(type(store), "log_inputs", log_inputs)
    second = open_run(key="/runs/b")
    one, two = (mlflow_client().get_run(run_id) for run_id in (first, second))
    assert one.info.experiment_id == two.info.experiment_id
    (of_one,), (of_two,) = one.inputs.dataset_inputs, two.inputs.dataset_inputs
    assert of_one.dataset.digest == of_two.dataset.digest


def test_run_names_the_commit_it_ran_from(monkeypatch: pytest.MonkeyPatch) -> None:
    found = code_tags()
    assert found.items() <= mlflow_client().get_run(open_run()).data.tags.items()
    if (Path(__file__).parents[3] / ".git").exists():
        assert re.fullmatch("[0-9a-f]{40}", found["mlflow.source.git.commit"])
        assert found["git_dirty"] in ("true", "false")
    # A head node that got the packages by rsync has no repository, and may have no git.
    monkeypatch.setenv("PATH", "")
    assert code_tags() == {}


def test_a_repository_around_the_installed_package_is_not_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / ".venv/lib/pipeline/tracking/runs.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    author = ["-c", "user.name=ada", "-c", "user.email=ada@example.com"]
    (tmp_path / ".gitignore").write_text(".venv\n")
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "theirs"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(source, "__file__", str(installed))
    assert code_tags() == {}
    subprocess.run(["git", "-C", str(tmp_path), "add", "-f", str(installed)], check=True)
    assert code_tags()["git_dirty"] == "true"  # a copy of the code that they keep with theirs


def test_parameters_that_say_nothing_are_left_out() -> None:
    run_id = open_run(params={"method": "an", "clip_norm": None, "warmup": 0.0})
    assert mlflow_client().get_run(run_id).data.params == {"method": "an", "warmup": "0.0"}


def test_a_run_says_who_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert mlflow_client().get_run(open_run()).data.tags["mlflow.user"] == "ada"


def test_points_of_a_repeated_stretch_are_logged_once(run_id: str, spool: Path) -> None:
    for steps in ([10, 20, 30], [20, 30, 40]):  # killed after 30, resumed from a checkpoint at 10
        writer = writer_of(run_id, spool)
        writer.log([("train/loss", 1.0 / step, step) for step in steps])
        for step in steps:
            writer.table({"mid": ["/m/1", "/m/2"], "ap": [0.5, None]}, f"eval/{step}/ap.json")
            writer.update("cam/steps.txt", functools.partial(with_line, line=f"{step}"))
        assert writer.flush(60) == 0
    run = mlflow_client().get_run(run_id)
    assert steps_of(run_id) == [10, 20, 30, 40]
    paths = [f"eval/{step}/ap.json" for step in (10, 20, 30, 40)]
    for path in paths:
        table = mlflow_client().load_table(run.info.experiment_id, path, [run_id])
        assert table["mid"].tolist() == ["/m/1", "/m/2"]
        assert table["ap"].isna().tolist() == [False, True]
    output = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert sorted(entry["path"] for entry in output) == paths
    text = Path(runs.download(run_id, "cam/steps.txt", str(spool.parent))).read_text()
    assert text.split() == ["10", "20", "30", "40"]


def with_line(before: bytes | None, line: str) -> bytes:
    """A text with one line more, unless it has it."""
    lines = (before or b"").decode().split()
    return "\n".join([*lines, *([line] if line not in lines else [])]).encode()


def test_a_table_sent_again_after_a_failure_is_there_once(
    run_id: str, writer: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_writer, "_RETRY_SECONDS", 0.01)
    set_tag, failures = writer._client.set_tag, iter([ConnectionError("gone amid the table")])

    def failing_once(*arguments: Any) -> None:
        for error in failures:
            raise error
        set_tag(*arguments)

    monkeypatch.setattr(writer._client, "set_tag", failing_once)
    writer.table({"mid": ["/m/1"]}, "eval/ap.json")
    assert writer.flush(30) == 0
    run = mlflow_client().get_run(run_id)
    assert len(mlflow_client().load_table(run.info.experiment_id, "eval/ap.json", [run_id])) == 1


def test_more_tables_than_a_tag_can_name_stop_nothing(spool: Path) -> None:
    before = [
        {"path": f"eval/epoch_{epoch:03d}/per_class_ap.json", "type": "table"}
        for epoch in range(1, 126)
    ]
    run_id = open_run(tags={"mlflow.loggedArtifacts": json.dumps(before)})
    writer = writer_of(run_id, spool)
    for epoch in (126, 127, 128, 129):
        writer.table({"ap": [0.5]}, f"eval/epoch_{epoch}/per_class_ap.json")
    assert writer.flush(30) == 0
    output = json.loads(mlflow_client().get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert output[-1]["path"] == "eval/epoch_129/per_class_ap.json"
    assert len(output) > 120


def test_tables_and_files_arrive(run_id: str, writer: RunWriter, tmp_path: Path) -> None:
    writer.table({"mid": ["/m/1"], "ap": [1 / 3]}, "eval/per_class.json")
    writer.artifact(b"hello", "plots/note.txt")
    assert writer.flush(60) == 0
    names = {
        file.path
        for folder in ("eval", "plots")
        for file in mlflow_client().list_artifacts(run_id, folder)
    }
    assert {"eval/per_class.json", "plots/note.txt"} <= names
    table = Path(runs.download(run_id, "eval/per_class.json", str(tmp_path)))
    assert json.loads(table.read_text())["data"] == [["/m/1", 0.3333]]


def test_a_dead_server_neither_blocks_nor_loses_points(
    run_id: str, writer: RunWriter, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_writer, "_RETRY_SECONDS", 0.01)
    alive = writer._client

    class Dead:
        def __getattr__(self, name: str) -> Any:
            raise ConnectionError("nobody there")

    writer._client = Dead()
    started = time.monotonic()
    for step in range(100):
        writer.log([("train/loss", 1.0, step)])
    assert time.monotonic() - started < 5
    assert writer.flush(0.1) > 0
    assert len(spool.read_text().splitlines()) == 100
    writer._client = alive
    assert writer.flush(300) == 0
    assert len(steps_of(run_id)) == 100
    assert not spool.exists()


def test_spooled_points_are_replayed_by_the_next_attempt(run_id: str, spool: Path) -> None:
    spool.write_text('[["train/loss", 0.5, 7]]\n[["train/loss", 0.25, 8]]\n')
    assert writer_of(run_id, spool).flush(30) == 0
    assert steps_of(run_id) == [7, 8]
    assert not spool.exists()


@pytest.mark.parametrize("torn", ['[["train/loss", 0.1, 9', '{"a": 1}\n', "\n", "[7]"])
def test_a_line_of_the_spool_that_was_cut_costs_no_other(
    run_id: str, spool: Path, torn: str
) -> None:
    spool.write_text(f'[["train/loss", 0.5, 7]]\n[["train/loss", 0.5, 7]]\n{torn}')
    writer = writer_of(run_id, spool)
    writer.log([("train/loss", 0.25, 8)])
    assert writer.flush(30) == 0
    assert steps_of(run_id) == [7, 8]
    assert not spool.exists()


def test_a_replayed_spool_stays_until_its_points_are_sent(
    run_id: str, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.write_text('[["train/loss", 0.5, 7]]\n[["train/lo')
    with monkeypatch.context() as dead:
        tried: list[object] = []
        dead.setattr(RunWriter, "_sent", lambda self, send: tried.append(send))  # None: again
        dead.setattr(tracking_writer, "_RETRY_SECONDS", 3600.0)
        killed = writer_of(run_id, spool)
        killed.log([("train/loss", 0.25, 8)])
        wait_until(lambda: bool(tried))
        assert killed.flush(0.2) == 2
    assert writer_of(run_id, spool).flush(30) == 0
    assert steps_of(run_id) == [7, 8]


def test_a_full_disk_beneath_the_spool_costs_no_point(run_id: str, spool: Path, capsys) -> None:
    spool.symlink_to("/dev/full")  # not itself: the spool is removed in the end
    writer = writer_of(run_id, spool)
    for step in (1, 2):
        writer.log([("train/loss", 0.5, step)])
    assert writer.flush(30) == 0
    assert steps_of(run_id) == [1, 2]
    assert capsys.readouterr().out.count("points for MLflow are not kept for later") == 1


def test_points_that_come_late_are_taken_and_those_of_a_repeated_stretch_are_not(
    run_id: str, writer: RunWriter
) -> None:
    for step in (20, 40, 30, 40):  # asked again by Ray, after what followed
        writer.log([("train/loss", 0.5, step)], "first")
    for step in (25, 35, 45, 44):  # from a checkpoint, with another number of workers
        writer.log([("train/loss", 0.5, step)], "second")
    assert writer.flush(30) == 0
    assert sorted(steps_of(run_id)) == [20, 30, 40, 44, 45]


@pytest.mark.ray
def test_a_writer_that_is_killed_loses_no_point(
    run_id: str, store: str, tmp_path: Path, ray_local: None, spool: Path
) -> None:
    import ray

    writer = tasks.start_actor(RunWriter, store, run_id, str(tmp_path / "spool.jsonl"))
    for step in range(60):
        writer.log([("train/loss", 0.5, step)], "worker")
        if step in (0, 30):
            ray.kill(writer._actor, no_restart=False)
    assert tasks.answer(writer.flush(120), otherwise=None) == 0
    assert sorted(steps_of(run_id)) == list(range(60))


def test_an_unreachable_store_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        open_run()


def test_machines_report_under_their_names(run_id: str, writer: RunWriter) -> None:
    began = mlflow_client().get_run(run_id).info.start_time / 1000
    for node in ("node0", "node1"):
        writer.system_metrics(node, {"cpu_utilization_percentage": 12.5})
    assert writer.flush(30) == 0
    for node in ("node0", "node1"):
        key = f"system/{node}/cpu_utilization_percentage"
        (point,) = mlflow_client().get_metric_history(run_id, key)
        assert point.value == 12.5
        assert abs(point.step - (time.time() - began)) < 60  # seconds since the run began


def test_the_description_of_a_run_is_its_latest_table(run_id: str, writer: RunWriter) -> None:
    for text in ("first", "second"):
        writer.tag("mlflow.note.content", text)
    assert writer.flush(30) == 0
    assert mlflow_client().get_run(run_id).data.tags["mlflow.note.content"] == "second"
