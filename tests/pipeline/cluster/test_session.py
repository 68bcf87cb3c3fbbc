"""Reaching a cluster: its nodes are compared with the driver before a job runs."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.cluster import placement, preemption, preflight, scaling, session, tasks
from pipeline.tracking import writer
from pipeline.training import progress
from sharding.errors import InputError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.ray


def test_an_address_where_nothing_answers_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(preflight, "_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(InputError, match=rf"no Ray cluster answers at {address}"):
        session.connect(address)
    assert f"joining Ray at {address}\n" in capsys.readouterr().err, "before anything is waited for"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match="correct RAY_ADDRESS"):
        session.connect()
    with pytest.raises(InputError, match=r"answers at head\.\.x:1"):
        session.connect("head..x:1")


@pytest.fixture
def last_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that `ray start` writes, of a machine of its own."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray/ray_current_cluster"


def test_a_cluster_that_is_gone_is_named_with_the_file_that_names_it(
    last_start: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(preflight, "_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    last_start.write_text(address)
    with pytest.raises(InputError, match=rf"answers at {address}: .*RAY_ADDRESS to local") as gone:
        session.connect()
    assert gone.value.file == str(last_start)
    assert f"joining Ray at {address}, which {last_start} names;" in capsys.readouterr().err
    last_start.write_text("")  # a disk was full
    with pytest.raises(InputError, match=r"answers at '': not an address\. Fix: set RAY_ADDRESS"):
        session.connect()


def test_the_cluster_of_a_machine_is_found_as_ray_finds_it(
    last_start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services

    running = set[str]()
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: frozenset(running))
    assert str(session._find("")) == str(session._find("local")) == "starting Ray"
    assert session._find("auto") == preflight.Place("auto")
    running.add("10.0.0.9:6379")
    assert session._find("auto") == preflight.Place("10.0.0.9:6379")
    assert not session._find("").is_elsewhere, "an instance that no `ray start` made"
    last_start.write_text("10.0.0.8:6379\n")
    named = preflight.Place("10.0.0.8:6379", str(last_start))
    assert session._find("") == named
    running.add("10.0.0.8:6379")
    assert session._find("auto") == named
    assert session._find("local") == preflight.Place("local"), "whatever the file says"
    assert session._find("head:6379") == preflight.Place("head:6379")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("auto", r"RAY_ADDRESS is auto, and this machine belongs to no Ray cluster\. Fix: run"),
        ("ray://head:10001", r"at ray://head:10001 cannot be joined: no answer\. Fix: correct"),
        ("head:6379", r"cluster at head:6379 cannot be joined: no answer\. Fix: correct"),
        ("head", r"cluster at head cannot be joined: no answer\. Fix: correct"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_line(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def init(**_: object) -> None:
        raise ConnectionError("no answer\nMore.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(InputError, match=message):
        session._init(preflight.Place(address), address=None)


@pytest.mark.parametrize("times", [1, 2])
def test_a_busy_machine_gets_a_second_try_and_one_line(
    times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    failures = ["The current node timed out during startup.\nMore."] * times

    def init(**_: object) -> None:
        if failures:
            raise Exception(failures.pop())

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if times == 1:
        session._init(preflight.Place(""), address=None)
    else:
        with pytest.raises(InputError, match=r"did not start .* startup\.\. Fix: repeat the comm"):
            session._init(preflight.Place(""), address=None)
    shown = capsys.readouterr().out
    assert (
        shown
        == "Ray did not start (The current node timed out during startup.); trying once more\n"
    )


def test_code_that_is_edited_while_a_job_waits_is_not_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    (file := tmp_path / "pipeline/step.py").parent.mkdir()
    file.write_text("shipped")

    def init(**_: object) -> None:
        file.write_text("edited")
        raise Exception("no Ray")

    code_hash = functools.cache(session.code_hash.__wrapped__)
    monkeypatch.setattr(session, "code_hash", code_hash)
    monkeypatch.setattr(session, "package_directories", lambda: [file.parent])
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(InputError, match="no Ray"):
        session.connect("local")
    hashed = session.code_hash()
    file.write_text("shipped")
    assert hashed == code_hash.__wrapped__()


def test_the_loggers_that_are_silenced_are_rays() -> None:
    for name in session._HELPERS:
        assert importlib.import_module(name).logger.name == name


def test_workers_do_not_say_that_fonts_were_listed_or_what_rays_helpers_warn_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = SimpleNamespace(gcs_address="")
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    monkeypatch.setenv("RAY_ADDRESS", "")
    logger = logging.getLogger("matplotlib.font_manager")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    said: list[str] = []
    train = logging.getLogger("ray.train")
    sink = logging.Handler()
    monkeypatch.setattr(sink, "emit", lambda record: said.append(record.getMessage()))
    monkeypatch.setattr(train, "handlers", [sink])
    monkeypatch.setattr(train, "disabled", False)
    monkeypatch.setattr(train, "filters", [])
    session.prepare_worker()
    train.setLevel(logging.WARNING)  # an earlier test's Ray may have raised it
    assert logger.level == logging.WARNING
    for name in session._HELPERS:
        helper = logging.getLogger(name)
        helper.setLevel(logging.NOTSET)  # as `dictConfig` of its parent does in Ray Train
        helper.warning("safe to ignore")
        helper.removeFilter(session._nothing)
    train.warning("of others")
    assert said == ["of others"]


@contextlib.contextmanager
def second_instance(tmp_path: Path) -> Iterator[str]:
    """Another process's own Ray instance, with a dashboard at Ray's usual port; its address."""
    program = (
        "import ray, sys; ray.init('local', num_cpus=1, object_store_memory=100 * 1024**2,"
        " include_dashboard=True, log_to_driver=False);"
        " print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": "local"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        # Its standard input ends with this block, and the program with it.


@pytest.fixture
def two_nodes(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One node that appears twice, under two addresses."""
    import ray

    (node,) = ray.nodes()
    seen = [{**node, "NodeManagerAddress": address} for address in ("10.0.0.1", "10.0.0.2")]
    monkeypatch.setattr(ray, "nodes", lambda: seen)


def test_resources_are_counted_over_nodes(two_nodes: None) -> None:
    assert [node.cpus for node in session.nodes()] == [2, 2]
    assert session.place(2, 2, None) == (False, 2)


def test_nodes_like_the_driver_pass_without_a_word(
    two_nodes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    session._check_nodes()
    assert capsys.readouterr().out == ""


def test_every_node_that_differs_is_named(
    two_nodes: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = preflight.facts(session.code_hash())
    # Only in this process: the tasks import their own.
    monkeypatch.setattr(preflight, "facts", lambda code: {**here, "torch": "99.0"})
    with pytest.raises(InputError, match=r"10\.0\.0\.1, 10\.0\.0\.2"):
        session._check_nodes()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"preflight: node 10.0.0.2: torch {here['torch']}, driver 99.0"


def test_every_node_reads_the_storage_and_nothing_is_left_there(
    two_nodes: None, tmp_path: Path
) -> None:
    session.check_shared(str(tmp_path / "runs"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_workers_that_no_node_can_bring_are_refused_at_once(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cluster.yaml"
    monkeypatch.setattr(session, "_CLUSTER_FILE", str(file))
    with pytest.raises(InputError, match="no room for 9 workers of 4 CPUs"):  # nobody brings nodes
        session.place(9, 9, 4)
    file.write_text(
        "{max_workers: 2, available_node_types: {small: {resources: {CPU: 2}, max_workers: 2}}}"
    )
    with pytest.raises(InputError, match=r"never fit .*small \(2 CPUs, 0 GPUs\) holds none"):
        session.place(9, 9, 4)


def test_workers_wait_for_what_others_hold(
    ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    other = scaling.reserving(scaling.Request(1, 2, 0))
    is_held = other.__enter__()
    wait_until(is_held)
    wait_until(lambda: scaling.free() == [placement.Node(0, 0)])
    assert session.nodes() == [placement.Node(2, 0)]
    assert not scaling.others_wait()
    waiting: list[float] = []

    def pause(seconds: float) -> None:
        waiting.append(seconds)
        if len(waiting) == 7:
            wait_until(scaling.others_wait)  # this one, of an elastic run that looks
            other.__exit__(None, None, None)
        time.sleep(0.02)

    room = scaling.Room(scaling.Request(2, 1, 0), 2, 1000, pause=pause)
    assert room.find(None) == 2
    assert len(waiting) >= 7
    assert "0 of 2 workers of 1 CPUs and 0 GPUs fit on what is free" in capsys.readouterr().out
    wait_until(lambda: scaling.free() == [placement.Node(2, 0)])


def test_one_node_is_not_asked(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check", lambda *_: pytest.fail("a local instance was asked"))
    session._check_nodes()


def test_a_driver_knows_its_job(ray_local: None) -> None:
    assert re.fullmatch("[0-9a-f]{8}", session.job_id())


def test_a_worker_asks_its_own_instance_where_there_are_two(
    ray_local: None, tmp_path: Path
) -> None:
    """What Ray Train's cleaner asks; without a dashboard nobody answers, not even another's."""
    import ray
    from ray.train.v2._internal.state.util import is_actor_alive
    from ray.util.state.exception import RayStateApiException

    def ask() -> str:
        with pytest.raises(RayStateApiException):
            is_actor_alive("0" * 32, timeout=5)
        os.environ["RAY_API_SERVER_ADDRESS"] = "http://localhost:8265"  # as README's commands do
        session.prepare_worker()
        with pytest.raises(RayStateApiException):
            is_actor_alive("0" * 32, timeout=5)
        return os.environ["RAY_ADDRESS"]

    own = ray.get_runtime_context().gcs_address
    with second_instance(tmp_path) as other:
        assert other != own
        assert ray.get(ray.remote(ask).remote()) == own


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_actor_that_is_gone_for_good_answers_as_said(ray_local: None, tmp_path: Path) -> None:
    import ray

    gone = tasks.start_actor(writer.RunWriter, "sqlite://", "run", str(tmp_path / "spool.jsonl"))
    ray.kill(gone._actor)
    assert tasks.answer(gone.state(), otherwise="nothing") == "nothing"
    question = preemption.Poll(gone.stop_requested, every=0.0)
    for _ in range(10):
        assert not question()
        time.sleep(0.05)
    with progress.shown(gone):
        time.sleep(1.5)
