"""The cluster files are valid for Ray and mount only what exists and is small."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hosts.clusterfile import for_namespaces
from tests.hosts.namespaces import missing

REPOSITORY = Path(__file__).parents[1]
FILES = ["ray_cluster.yaml", "ray_cluster_onprem.yaml"]


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / name).read_text())


@pytest.fixture(params=FILES)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def test_valid_for_rays_schema(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_schema_check_can_fail() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config({**load("ray_cluster.yaml"), "no_such_key": 1})


def test_mounts_are_narrow_and_exist(config: dict[str, Any]) -> None:
    mounts = config["file_mounts"]
    local = {source for source in mounts.values() if not source.startswith("~")}
    assert {"pipeline", "sharding", "pyproject.toml", "requirements.lock"} == local
    assert all((REPOSITORY / source).exists() for source in local)
    assert "." not in mounts.values()


def test_every_node_agrees_on_authentication(config: dict[str, Any]) -> None:
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_a_job_that_is_stopped_has_time_to_save(config: dict[str, Any]) -> None:
    (start,) = [each for each in config["head_start_ray_commands"] if "ray start" in each]
    assert "RAY_JOB_STOP_WAIT_TIME_S=300;" in start.partition("ray start")[0]


def test_no_import_on_the_head_can_restart_the_workers(config: dict[str, Any]) -> None:
    assert not config.get("file_mounts_sync_continuously", False)


def test_the_cluster_test_changes_little_of_the_shipped_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    shipped = load("ray_cluster_onprem.yaml")
    derived = for_namespaces(shipped)
    validate_config(prepare_config(derived))
    assert derived.keys() == shipped.keys()
    changed = {key for key in shipped if shipped[key] != derived[key]}
    commands = {"setup_commands", "head_start_ray_commands", "worker_start_ray_commands"}
    assert changed == commands
    installs = set(shipped["setup_commands"]) - set(derived["setup_commands"])
    assert installs == {"pip install --requirement ~/openimages/requirements.lock"}


def test_a_machine_that_cannot_be_several_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda tool, path: None)
    lacks = missing()
    assert "sshd (package openssh-server)" in lacks
    assert "root" in lacks


def test_lock_has_exact_versions_and_no_address() -> None:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert len(packages) > 50
    for line in packages:
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+(; python_version [=<>]+ \"3\.\d+\")?", line), line
