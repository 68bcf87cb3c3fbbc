"""Reaching a cluster: its nodes are compared with the driver before a job runs."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from pipeline import cluster, notice, preflight, tracking, watch
from sharding.errors import InputError

pytestmark = pytest.mark.ray


@pytest.fixture
def two_nodes(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One node that appears twice, under two addresses."""
    import ray

    (node,) = ray.nodes()
    seen = [{**node, "NodeManagerAddress": address} for address in ("10.0.0.1", "10.0.0.2")]
    monkeypatch.setattr(ray, "nodes", lambda: seen)


def test_resources_are_counted_over_nodes(two_nodes: None) -> None:
    assert [node.cpus for node in cluster.nodes()] == [4, 4]
    assert cluster.resources() == (8, 0)
    assert cluster.place(2, 2, None) == (False, 4)


def test_nodes_like_the_driver_pass_without_a_word(
    two_nodes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster._check_nodes()
    assert capsys.readouterr().out == ""


def test_every_node_that_differs_is_named(
    two_nodes: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = preflight.facts(cluster.code_hash())
    # Only in this process: the tasks import their own.
    monkeypatch.setattr(preflight, "facts", lambda code: {**here, "torch": "99.0"})
    with pytest.raises(InputError, match=r"10\.0\.0\.1, 10\.0\.0\.2"):
        cluster._check_nodes()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"preflight: node 10.0.0.2: torch {here['torch']}, driver 99.0"


def test_one_node_is_not_asked(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check", lambda *_: pytest.fail("a local instance was asked"))
    cluster._check_nodes()


def test_a_driver_knows_its_job(ray_local: None) -> None:
    assert re.fullmatch("[0-9a-f]{8}", cluster.job_id())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_actor_that_is_gone_for_good_answers_as_said(ray_local: None, tmp_path: Path) -> None:
    import ray

    gone = cluster.start_actor(tracking.Tracker, "sqlite://", "run", str(tmp_path / "spool.jsonl"))
    ray.kill(gone._actor)
    assert cluster.answer(gone.state(), otherwise="nothing") == "nothing"
    question = notice.Question(gone.leaving, every=0.0)
    for _ in range(10):
        assert not question()
        time.sleep(0.05)
    with watch.shown(gone):
        time.sleep(1.5)
