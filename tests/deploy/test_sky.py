"""SkyPilot's file repeats 75 alone, and its commands end as the training does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.test_documented_commands import check_line

REPOSITORY = Path(__file__).parents[2]
TASK = yaml.safe_load((REPOSITORY / "deploy/sky.yaml").read_text())

_RAY = """#!/bin/bash
case "$1" in
    list) echo '[{"node_id": "a"}, {"node_id": "b"}]' ;;
    start) echo "$*" >> "$CALLS"; [[ $* == *--head* ]] || exit 1; exec sleep 60 ;;
esac
"""


def run(home: Path, rank: int, code: int) -> tuple[int, str]:
    """Run a node's commands, Ray and the training being small programs; (status, calls)."""
    programs = home / "openimages-venv/bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"PATH={programs}:$PATH")
    (programs / "python").symlink_to(sys.executable)
    (programs / "ray").write_text(_RAY)
    (programs / "ray").chmod(0o755)
    (home / "jobs").mkdir()
    (home / "jobs/train_openimages.py").write_text(f"import sys; print(sys.argv); sys.exit({code})")
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "CALLS": str(home / "calls"),
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NUM_NODES": "2",
        "BUCKET": "s3://bucket",
        "OPTIONS": TASK["envs"]["OPTIONS"],
    }
    done = subprocess.run(
        ["bash", "-c", TASK["run"]], cwd=home, env=environment, timeout=300, stdout=subprocess.PIPE
    )
    return done.returncode, (home / "calls").read_text()


def test_only_75_is_repeated() -> None:
    assert TASK["resources"]["job_recovery"] == {"recover_on_exit_codes": [75]}


def test_nothing_that_a_user_must_say_has_a_value() -> None:
    assert TASK["secrets"] == {"RAY_AUTH_TOKEN": None}
    assert {name for name, value in TASK["envs"].items() if value is None} == {
        "BUCKET",
        "MLFLOW_TRACKING_URI",
    }


def test_the_job_accepts_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    line = TASK["run"].strip().splitlines()[-1].replace("$OPTIONS", TASK["envs"]["OPTIONS"])
    check_line(line.replace("$BUCKET", "s3://bucket"), monkeypatch)


@pytest.mark.parametrize("code", [0, 2, 75])
def test_the_first_node_ends_as_its_driver_does_and_ends_ray(tmp_path: Path, code: int) -> None:
    status, calls = run(tmp_path, rank=0, code=code)  # which returns when no process has its output
    assert status == code
    assert "--head --port=6379" in calls


def test_another_node_ends_well_when_its_head_is_gone(tmp_path: Path) -> None:
    status, calls = run(tmp_path, rank=1, code=2)
    assert status == 0
    assert calls.count("\n") == 1
    assert calls.endswith("--address=10.0.0.1:6379\n")
