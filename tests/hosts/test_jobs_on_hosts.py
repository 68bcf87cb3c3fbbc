"""The commands of docs/cluster.md on a laptop, a head and two workers: one story in one order."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from tests.hosts.hosts import SHARED
from tests.hosts.story import EPOCHS, TRAIN, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_machines_have_the_code_from_the_mounts_alone(cluster: Cluster) -> None:
    place = "import os, pipeline; print(os.path.relpath(pipeline.__file__, os.environ['HOME']))"
    for host in cluster.nodes_by_name.values():
        output = host.run(f'python -c "{place}"')
        assert output.strip() == "openimages/pipeline/__init__.py"


def test_the_dump_becomes_a_dataset(cluster: Cluster) -> None:
    assert "images in" in cluster.shard()
    assert json.loads((cluster.shared / "dataset/dataset.json").read_text())


def test_training_whose_driver_is_killed_is_resumed_by_the_same_command(cluster: Cluster) -> None:
    training = cluster.start_training("first")
    assert cluster.kill_jobs()
    output, _ = training.communicate(timeout=60)
    assert training.returncode != 0, output
    output = cluster.submit("train_openimages.py", f"{TRAIN} --name first")
    assert "best checkpoint" in output
    assert cluster.curve("first") == cluster.expected_curve(EPOCHS)


def test_two_workers_were_on_two_hosts(cluster: Cluster) -> None:
    addresses = {node["node_id"]: node["node_ip"] for node in cluster.list("nodes")}
    used = defaultdict(set)
    for worker in cluster.list("actors", "class_name=RayTrainWorker"):
        used[worker["job_id"]].add(addresses[worker["node_id"]])
    workers = {cluster.machines[name].address for name in ("worker1", "worker2")}
    assert list(used.values()) == [workers, workers]


def test_a_host_that_is_lost_in_training_costs_no_point_of_the_curve(cluster: Cluster) -> None:
    training = cluster.start_training("second")
    assert cluster.machines["worker2"].kill("raylet/raylet")
    output, _ = training.communicate(timeout=600)
    assert training.returncode == 0, output
    assert cluster.curve("second") == cluster.expected_curve(EPOCHS)
    assert cluster.weights("second", EPOCHS) == cluster.weights("first", EPOCHS)


def test_a_driver_that_is_told_to_end_saves_its_step(cluster: Cluster) -> None:
    cluster.end_training(cluster.start_training("ended", "--checkpoint-every 1"))
    cluster.submit("train_openimages.py", f"{TRAIN} --name ended --checkpoint-every 1")
    assert cluster.curve("ended") == cluster.expected_curve(EPOCHS)
    assert cluster.weights("ended", EPOCHS) == cluster.weights("first", EPOCHS)


def test_a_ray_job_evaluates_the_checkpoint(cluster: Cluster) -> None:
    output = cluster.submit_ray_job(
        f"evaluate_openimages.py --checkpoint {SHARED}/runs/first --dataset {SHARED}/dataset"
    )
    assert "BoostLU on" in output
    assert "succeeded" in output
