"""Every trouble with MLflow is one line with the fix for it, and shows no password."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from pipeline.tracking import client, runs
from pipeline.tracking import writer as tracking_writer
from pipeline.tracking.errors import mlflow_errors
from pipeline.tracking.writer import RunWriter
from sharding.errors import InputError
from tests.support.waiting import wait_until


def open_run(key: str = "/runs/a", *, resume: bool = False, experiment: str = "tests") -> str:
    return runs.open_run(
        experiment=experiment, name="a", key=key, resume=resume, params={"a": 1}, tags={}, config={}
    )


@pytest.fixture(autouse=True)
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Path(shutil.copy(empty_store, tmp_path))


@pytest.mark.parametrize(
    ("error", "meaning", "fix"),
    [
        (
            MlflowException(
                "API request to http://al:hunter2@h/api failed with exception "
                "HTTPConnectionPool(host='h', port=80): Max retries exceeded"
            ),
            "does not answer",
            "start the server",
        ),
        (
            MlflowException("API request failed with error code 401 != 200", codes.UNAUTHENTICATED),
            "refuses the credentials",
            "MLFLOW_TRACKING_USERNAME",
        ),
        (MlflowException("no", codes.PERMISSION_DENIED), "refuses the credentials", "PASSWORD"),
        (MlflowException("not in a valid JSON format"), "no MLflow server", "check MLFLOW_TRACK"),
        (MlflowException("SSLError: CERTIFICATE_VERIFY_FAILED"), "certificate", "SERVER_CERT_PATH"),
        (MlflowException("got unsupported URI 'h:5000'"), "no place for runs", "http://HOST:PORT"),
        (OSError("413 Client Error: Request Entity Too Large"), "so large", "client_max_body_size"),
        (ValueError("Unable to locate credentials"), "artifact store", "AWS_"),
        (ModuleNotFoundError("No module named 'psycopg'"), "a package is missing", "install it"),
        (MlflowException("Invalid model name 'a/b'. Names cannot contain '/'"), "name", "another"),
        (MlflowException("'name' exceeds the maximum length of 9 characters"), "name", "another"),
        (MlflowException("'params[0].value' exceeds the maximum length"), "so long", "shorten"),
        (RuntimeError("what?"), "what?", "wait"),
    ],
)
def test_each_trouble_has_its_own_fix(error: Exception, meaning: str, fix: str) -> None:
    with pytest.raises(InputError) as caught, mlflow_errors("no run", "wait"):
        raise error
    output, _, then = str(caught.value).partition(". Fix: ")
    assert meaning in output
    assert fix in then
    assert "hunter2" not in str(caught.value)


def test_a_server_that_is_down_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:hunter2@127.0.0.1:9")
    assert client.browse_command() == "open http://alice:***@127.0.0.1:9"
    with pytest.raises(InputError, match=r"does not answer.*start the server") as caught:
        open_run()
    assert "hunter2" not in str(caught.value)


def test_a_deleted_experiment_is_told() -> None:
    mlflow = client.mlflow_client()
    mlflow.delete_experiment(mlflow.create_experiment("tests"))
    with pytest.raises(InputError, match=r"'tests' is deleted .*restore -x 1\), or .*--experiment"):
        open_run()


@pytest.mark.parametrize(
    ("version", "fix"), [("4465047574b1", "mlflow db upgrade sqlite:////"), ("f" * 12, "install")]
)
def test_a_database_of_another_version_is_told(store: Path, version: str, fix: str) -> None:
    error = MlflowException(f"Detected out-of-date database schema (found version {version}, but")
    with pytest.raises(InputError, match=f"by an? ?.*er MLflow .*Fix: .*{fix}"), mlflow_errors("x"):
        raise error


def test_a_relative_database_stays_where_the_job_was_started(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = open_run()
    writer = RunWriter(client.tracking_uri(), run_id, str(tmp_path / "spool.jsonl"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.log([("loss", 1.0, 1)])
    assert writer.flush() == 0
    with sqlite3.connect(store) as database:
        assert database.execute("select value from metrics").fetchall() == [(1.0,)]


@pytest.mark.parametrize(
    "key", ["/data/Bob's runs/a", '/data/say "cheese"', "/data/100% \\ x", "/données/50%_off", "/a"]
)
def test_a_run_is_resumed_whatever_its_directory_is_called(key: str) -> None:
    first = open_run(key)
    assert open_run(f"{key}'") != first
    assert open_run(key, resume=True) == first


def test_a_run_of_0_1_0_is_resumed() -> None:
    first = open_run()
    client.mlflow_client().delete_tag(first, "run_key_sha256")
    assert open_run(resume=True) == first


def test_a_run_whose_artifacts_find_no_place_is_not_left_behind(
    store: Path, tmp_path: Path
) -> None:
    mlflow = client.mlflow_client()
    (tmp_path / "file").touch()
    location = (tmp_path / "file/store").as_uri()
    experiment = mlflow.create_experiment("tests", artifact_location=location)
    with pytest.raises(InputError, match=f"artifacts cannot be written to {location}"):
        open_run()
    assert mlflow.search_runs([experiment]) == []
    (tmp_path / "file").unlink()
    run = mlflow.get_run(open_run(resume=True))
    assert run.data.params == {"a": "1"}


def test_credentials_reach_no_parameter_and_no_tag(store: Path) -> None:
    secret = "s3://key:hunter2@bucket/runs"
    runs.open_run(
        experiment="tests", name="a", key=secret, resume=False, params={"storage": secret},
        tags={"checkpoint": secret}, config={"storage": [secret]},
        inputs=[runs.TableInput(context="train", path=f"{secret}/x/train.parquet", digest="0")],
    )  # fmt: skip
    for file in (store, *(store.parent / "mlartifacts").rglob("*.json")):
        assert b"hunter2" not in file.read_bytes()
    assert b"key:***@bucket" in store.read_bytes()


def test_what_mlflow_will_never_take_does_not_stop_the_rest(tmp_path: Path) -> None:
    run_id = open_run()
    writer = RunWriter(client.tracking_uri(), run_id, str(tmp_path / "spool.jsonl"))
    writer.log([("a $name$", 1.0, 1)])
    writer.update("maps/page.html", lambda before: b"".join(None))  # type: ignore[arg-type]
    writer.log([("loss", 1.0, 1)])
    assert writer.flush() == 2, "given up, but not counted as sent"
    assert client.mlflow_client().get_run(run_id).data.metrics == {"loss": 1.0}


def test_a_file_that_no_store_takes_holds_no_point_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_writer, "_RETRY_SECONDS", 0.01)
    run_id = open_run()
    writer = RunWriter(client.tracking_uri(), run_id, str(tmp_path / "spool.jsonl"))
    refusals = ["413 Client Error: Request Entity Too Large for url", "the token has expired"]
    log_artifact = writer._client.log_artifact

    def refuse(*arguments: object) -> None:
        if refusals:
            raise OSError(refusals.pop(0) if len(refusals) > 1 else refusals[0])
        log_artifact(*arguments)

    monkeypatch.setattr(writer._client, "log_artifact", refuse)
    for path in ("maps/large.html", "maps/small.html"):
        writer.artifact(b"1", path)
    writer.log([("loss", 1.0, 1)])
    wait_until(lambda: client.mlflow_client().get_run(run_id).data.metrics == {"loss": 1.0})
    assert writer.flush(0.1) == 2
    refusals.clear()
    assert writer.flush() == 1, "the large one was given up"


def test_a_proxys_404_of_a_moment_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_writer, "_RETRY_SECONDS", 0.01)
    run_id = open_run()
    writer = RunWriter(client.tracking_uri(), run_id, str(tmp_path / "spool.jsonl"))
    writer.update("maps/page.txt", lambda before: b"1")
    assert writer.flush() == 0
    alive = writer._client

    class Starting:
        def __getattr__(self, name: str) -> object:
            raise MlflowException("error code 404 != 200", codes.ENDPOINT_NOT_FOUND)

    writer._client = Starting()
    writer.update("maps/page.txt", lambda before: (before or b"") + b"2")
    writer.log([("loss", 1.0, 1)])
    assert writer.flush(0.1) == 2
    writer._client = alive
    assert writer.flush() == 0
    assert Path(alive.download_artifacts(run_id, "maps/page.txt")).read_bytes() == b"12"
    assert alive.get_run(run_id).data.metrics == {"loss": 1.0}


def test_points_kept_by_0_1_0_are_sent_unless_they_are_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old = tmp_path / "mlflow-spool-a.jsonl"
    (tmp_path / "target").write_text("[]")
    old.symlink_to(tmp_path / "target")
    assert not Path(tracking_writer.spool_of("a")).exists()
    old.unlink()
    old.write_text('[["loss", 1.0, 1]]')
    assert "loss" in Path(tracking_writer.spool_of("a")).read_text()
    assert not old.exists()


def test_a_deleted_run_is_told_and_none_is_lost() -> None:
    run_id = open_run()
    client.mlflow_client().delete_run(run_id)
    message = r"the run is deleted.*Fix: restore it .mlflow runs restore"
    with pytest.raises(InputError, match=message), mlflow_errors("nothing is logged"):
        client.mlflow_client().log_metric(run_id, "loss", 1.0)
    assert not runs.knows(run_id)
    assert open_run(resume=True) != run_id


@pytest.mark.parametrize(
    "variable",
    [
        *(
            "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_SERVER_CERT_PATH",
        ),
        *("MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_S3_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY"),
        *("REQUESTS_CA_BUNDLE", "GOOGLE_APPLICATION_CREDENTIALS", "HTTPS_PROXY"),
    ],
)
def test_what_mlflow_reads_of_the_shell_is_sent(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "as set")
    assert client.credentials()[variable] == "as set"


def test_the_writer_gets_the_shells_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = open_run()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of the driver")
    monkeypatch.setenv("SECRET_OF_ANOTHER_PROGRAM", "x")
    found = client.credentials()
    assert "SECRET_OF_ANOTHER_PROGRAM" not in found
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    RunWriter(client.tracking_uri(), run_id, str(tmp_path / "s"), environment=found)
    assert client.credentials()["MLFLOW_TRACKING_TOKEN"] == "of the driver"


def test_a_server_without_logged_models_is_taken_to_have_no_artifact(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(*_: object) -> None:
        raise MlflowException("failed with error code 404", codes.ENDPOINT_NOT_FOUND)

    writer = RunWriter(client.tracking_uri(), open_run(), str(tmp_path / "spool.jsonl"))
    monkeypatch.setattr(MlflowClient, "list_artifacts", missing)
    assert writer._read("cam/index.html") is None
