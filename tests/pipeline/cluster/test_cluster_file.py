"""A cluster file that cannot work is refused before `ray up`, a line for each thing to mend."""

from __future__ import annotations

import copy
import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.cluster.cluster_file import DRIVER_FLOOR, check

REPOSITORY = Path(__file__).parents[3]
OWN = {"SET_INSTANCE_PROFILE": "training", "SET_FILE_SYSTEM": "fs-0123456789abcdef0"}


@functools.cache
def shipped() -> dict[str, Any]:
    """The file of this repository with the values that a user sets."""
    text = (REPOSITORY / "ray_cluster.yaml").read_text()
    for placeholder, value in OWN.items():
        assert placeholder in text
        text = text.replace(placeholder, value)
    return yaml.safe_load(text)


@pytest.fixture(autouse=True)
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home with Ray's token and a key, and the directory that `ray up` is called in."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (".ray/auth_token", ".ssh/id_ed25519"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.chdir(REPOSITORY)


def run(config: Any, directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Call the job on a file; its exit status and what it printed."""
    file = directory / "cluster.yaml"
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
    status = 0
    try:
        main.run("check-cluster", [str(file)])
    except SystemExit as ended:
        status = int(ended.code or 0)
    shown = capsys.readouterr()
    return status, "".join([shown.out, *shown.err.splitlines(keepends=True)[1:]])


def test_a_good_file_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shipped(), tmp_path, capsys) == (
        0,
        f"{tmp_path}/cluster.yaml: nothing to mend: aws us-east-1, at most 8 of: "
        "spot g6e.12xlarge, on-demand g6e.12xlarge\n",
    )
    onprem = yaml.safe_load((REPOSITORY / "ray_cluster_onprem.yaml").read_text())
    assert check(onprem, REPOSITORY) == []


def test_a_file_without_node_types_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = {"type": "aws", "region": "us-east-1"}
    status, shown = run({"cluster_name": "a", "provider": provider}, tmp_path, capsys)
    assert status == 2
    assert "'available_node_types' is a required property" in shown
    assert "'head_node_type' is a required property" in shown


def test_the_shipped_file_names_what_a_user_has_to_set() -> None:
    found = check(yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text()), REPOSITORY)
    assert [finding.place for finding in found] == ["metadata.profile.Name", "metadata.mount"]
    assert [finding.problem for finding in found] == [f"{name} is not set" for name in OWN]


def node(config: dict[str, Any], name: str = "spot") -> dict[str, Any]:
    return config["available_node_types"][name]["node_config"]


def replaced(key: str, old: str, new: str) -> Callable[[dict[str, Any]], None]:
    """Make a change of a command."""

    def change(config: dict[str, Any]) -> None:
        assert old in str(config[key])
        config[key] = [command.replace(old, new) for command in config[key]]

    return change


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "schema": (lambda c: c.update(idle_minutes=3), "'idle_minutes' was unexpected"),
    "schema type": (lambda c: c.update(max_workers="8"), "max_workers: '8' is not of type"),
    "no object": (lambda c: c.update(available_node_types=3), "available_node_types: 3 is not"),
    "no text": (
        lambda c: node(c).update(ImageId=None),
        "available_node_types.spot.node_config.ImageId: None is not of type 'string'",
    ),
    "no region": (lambda c: c["provider"].pop("region"), "provider: 'region' is a required prop"),
    "head type": (lambda c: c.update(head_node_type="haed"), "head_node_type: names no node type"),
    "provider": (lambda c: c["provider"].update(type="gcp"), "provider.type: 'gcp' is not known"),
    "default image": (
        lambda c: node(c).pop("ImageId"),
        "available_node_types.spot.node_config.ImageId: Ray's default image is of CUDA 11",
    ),
    "image": (lambda c: node(c).update(ImageId="ami-12 34"), "'ami-12 34' is no image"),
    "image of arm64": (
        lambda c: node(c).update(ImageId=node(c)["ImageId"].replace("x86_64", "arm64")),
        "ami-id' is no image",
    ),
    "arm64": (lambda c: node(c).update(InstanceType="g5g.xlarge"), "g5g.xlarge is arm64"),
    "no GPU": (lambda c: node(c).update(InstanceType="m7i.xlarge"), "m7i.xlarge has no GPU"),
    "no type": (lambda c: node(c, "head").update(InstanceType="large"), "'large' is no type"),
    "profile": (
        lambda c: node(c, "on-demand").pop("IamInstanceProfile"),
        "available_node_types.on-demand.node_config.IamInstanceProfile: no credentials",
    ),
    "spot alone": (
        lambda c: c["available_node_types"].pop("on-demand"),
        "available_node_types: nothing starts where spot is refused",
    ),
    "driver": (lambda c: c.pop("worker_setup_commands"), "nobody checks the driver"),
    "old driver": (
        replaced("worker_setup_commands", "-ge 580", "-ge 535"),
        "worker_setup_commands: driver 535 is too old for CUDA 13. Fix: ask for 580",
    ),
    "bounds": (lambda c: c.update(max_workers=0), "max_workers: 0 is less than all min_workers, 1"),
    "one type's bounds": (
        lambda c: c["available_node_types"]["spot"].update(max_workers=0),
        "available_node_types.spot: min_workers is more than max_workers, 0",
    ),
    "no file system": (lambda c: c.pop("initialization_commands"), "nodes share no file system"),
    "container": (
        lambda c: c["docker"].update(run_options=["--shm-size=16gb"]),
        "docker.run_options: containers do not see /data. Fix: add --volume=/data:/data",
    ),
    "ray of the image": (
        lambda c: c["docker"].update(image="rayproject/ray:2.9.0-py311-gpu"),
        "docker.image: Ray 2.9.0 is not the lock's",
    ),
    "python of the image": (
        lambda c: c["docker"].update(image=c["docker"]["image"].replace("py311", "py39")),
        "docker.image: Python 3.9 is not supported",
    ),
    "port": (
        replaced("worker_start_ray_commands", ":6379", ":6380"),
        "worker_start_ray_commands: workers join at another port",
    ),
    "port twice": (
        replaced("head_start_ray_commands", "--object-manager-port=8076", "--node-port=8265"),
        "--dashboard-port and --node-port are both 8265",
    ),
    "port of root": (
        replaced("head_start_ray_commands", "--object-manager-port=8076", "--node-port=80"),
        "head_start_ray_commands --node-port: port 80 cannot be used",
    ),
    "head": (replaced("head_start_ray_commands", "--num-cpus=0 ", ""), "the head would train"),
    "autoscaler": (
        replaced("head_start_ray_commands", "--autoscaling-config", "--config"),
        "--autoscaling-config=~/ray_bootstrap_config.yaml: nothing starts workers",
    ),
    "time to save": (
        replaced("head_start_ray_commands", "RAY_JOB_STOP_WAIT_TIME_S", "X"),
        "a stopped job has 3 s to save",
    ),
    "authentication": (
        replaced("setup_commands", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=none"),
        "setup_commands: whoever reaches the head may run code",
    ),
    "token": (
        lambda c: c["file_mounts"].pop("~/.ray/auth_token"),
        "file_mounts: no node gets the token",
    ),
    "mount": (
        lambda c: c["file_mounts"].update({"~/x": "no-such-folder"}),
        "file_mounts ~/x: no no-such-folder on this machine",
    ),
    "store": (
        replaced("head_setup_commands", "sqlite:////data/", "sqlite:///$HOME/"),
        "head_setup_commands: the MLflow store ends with the head",
    ),
    "database": (
        replaced("head_setup_commands", "sqlite:////data/mlflow.db", "postgresql://db/mlflow"),
        "the lock has no driver for that database",
    ),
    "no store": (lambda c: c.pop("head_setup_commands"), "would get an MLflow store"),
    "syncing": (
        lambda c: c.update(file_mounts_sync_continuously=True),
        "file_mounts_sync_continuously: it restarts workers under a job",
    ),
}


@pytest.mark.parametrize(("change", "line"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_file_is_a_line_with_its_fix(
    change: Callable[[dict[str, Any]], Any],
    line: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = copy.deepcopy(shipped())
    change(config)
    status, output = run(config, tmp_path, capsys)
    assert status == 2
    assert line in output
    assert [each.count(". Fix: ") for each in output.splitlines()] == [1], output


@pytest.mark.parametrize(
    ("text", "error"),
    [("[1, 2]", "not a cluster file"), ("a: [", "not YAML (while parsing")],
)
def test_what_is_no_cluster_file(
    text: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output = run(text, tmp_path, capsys)
    assert (status, output.count("\n")) == (2, 1)
    assert error in output


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.run("check-cluster", ["nowhere.yaml"])
    assert "nowhere.yaml: no cluster file (No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "status"), [("595.91.07", 0), ("580.65.06", 0), ("570.1", 1), ("", 1)]
)
def test_a_machine_whose_driver_is_too_old_is_not_set_up(
    version: str, status: int, tmp_path: Path
) -> None:
    (command,) = shipped()["worker_setup_commands"]
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho {version}\necho {version}\n")
    program.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", command], env={"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    told = f"error: NVIDIA's driver is {version or 'absent'}, CUDA 13 needs {DRIVER_FLOOR}."
    assert (told in done.stderr) is bool(status)


def test_the_floor_is_that_of_the_lock_s_cuda() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert "nvidia-dali-cuda130==" in lock  # CUDA 13, whose oldest driver branch is 580
    assert "nvidia-dali-cuda120==" not in lock
