"""The manifest for KubeRay is valid, agrees with the lock, and its hooks leave time to save."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from tests.test_documented_commands import check_line

REPOSITORY = Path(__file__).parents[2]
MANIFEST = yaml.safe_load((REPOSITORY / "deploy/kuberay/rayjob.yaml").read_text())
SPEC = MANIFEST["spec"]
CLUSTER = SPEC["rayClusterSpec"]
HEAD, WORKERS = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"]
# From the CRD `rayjobs.ray.io`, for example helm-chart/kuberay-operator/crds of KubeRay's sources.
CRD = os.environ.get("KUBERAY_CRD", "")


def pod(group: dict[str, Any]) -> dict[str, Any]:
    return group["template"]["spec"]


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(group)["containers"]
    return only


def variables(group: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(group)["env"]}


def hook(group: dict[str, Any]) -> list[str]:
    return container(group)["lifecycle"]["preStop"]["exec"]["command"]


def test_it_is_a_job_of_the_stable_interface_that_names_itself_anew() -> None:
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("ray.io/v1", "RayJob")
    assert MANIFEST["metadata"] == {"generateName": "openimages-"}
    assert SPEC["backoffLimit"] > 0
    assert SPEC["shutdownAfterJobFinishes"]


def test_its_command_is_one_that_the_job_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_line(SPEC["entrypoint"], monkeypatch)


def test_versions_are_those_of_lock_and_project() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text().splitlines()
    assert f"ray=={CLUSTER['rayVersion']}" in lock
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    image = f"registry.example.com/{project['name']}:{project['version']}"
    assert {container(group)["image"] for group in (HEAD, *WORKERS)} == {image}


def test_tokens_are_on_and_no_pod_keeps_the_metrics() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert variables(HEAD)["MLFLOW_TRACKING_URI"].startswith("http")


def test_the_head_trains_nothing_and_workers_have_gpus() -> None:
    assert HEAD["rayStartParams"] == {"num-cpus": "0"}
    assert "nvidia.com/gpu" not in container(HEAD)["resources"]["limits"]
    for group in WORKERS:
        limits = container(group)["resources"]["limits"]
        assert int(limits["nvidia.com/gpu"]) > 0
        assert container(group)["resources"]["requests"] == limits
        # A job uses the workers that are there when it starts.
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


@pytest.mark.parametrize("group", [HEAD, *WORKERS], ids=["head", "workers"])
def test_every_pod_mounts_data_and_has_time_to_save(group: dict[str, Any]) -> None:
    mounts = {each["mountPath"]: each["name"] for each in container(group)["volumeMounts"]}
    volumes = {each["name"]: each for each in pod(group)["volumes"]}
    assert volumes[mounts["/data"]]["persistentVolumeClaim"] == {"claimName": "openimages"}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert pod(group)["terminationGracePeriodSeconds"] == 330
    assert variables(group)["RAY_JOB_STOP_WAIT_TIME_S"] == "300"
    assert "300" in hook(group)[-1]


def test_a_head_that_is_taken_away_waits_for_its_driver(tmp_path: Path) -> None:
    script = tmp_path / "train_openimages.py"
    script.write_text(
        "import signal, sys, time\n"
        "def save(*_):\n    time.sleep(0.5)\n    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('steps', flush=True)\ntime.sleep(300)\n"
    )
    driver = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    other = subprocess.Popen(["sleep", "300"])
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"steps\n"
    command = [word.replace("/opt/openimages/jobs", str(tmp_path)) for word in hook(HEAD)]
    waiting = subprocess.Popen([sys.executable, *command[1:]])
    assert driver.wait(timeout=300) == 75
    assert waiting.wait(timeout=300) == 0
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_worker_that_is_taken_away_is_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    for group in WORKERS:
        shell, option, line = hook(group)
        drain, then, wait = line.partition(" && ")
        assert (shell, option, then, wait) == ("bash", "-c", " && ", "sleep 300")
        assert "PREEMPTION" in drain
        check_line(drain, monkeypatch)


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused: the server would drop them without a word."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    own = {key: closed(value) for key, value in schema.items()}
    if own.get("type") == "object" and "properties" in own:
        own.setdefault("additionalProperties", False)
    return own


@pytest.mark.skipif(not CRD, reason="KUBERAY_CRD names no file of KubeRay's rayjobs CRD")
def test_valid_for_kuberays_schema() -> None:
    versions = yaml.safe_load(Path(CRD).read_text())["spec"]["versions"]
    (schema,) = [each["schema"] for each in versions if each["name"] == MANIFEST["apiVersion"][-2:]]
    validator = Draft202012Validator(closed(schema["openAPIV3Schema"]))
    validator.validate(MANIFEST)
    for wrong in ({"backoffLimit": "5"}, {"backofLimit": 5}):
        with pytest.raises(ValidationError):
            validator.validate({**MANIFEST, "spec": {**SPEC, **wrong}})
