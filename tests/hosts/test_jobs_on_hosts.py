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
        told = host.run(f'python -c "{place}"')
        assert told.strip() == "openimages/pipeline/__init__.py"


def test_the_dump_becomes_a_dataset(cluster: Cluster) -> None:
    told = cluster.submit(
        "shard_openimages.py",
        f"--annotations {SHARED}/dump --images {SHARED}/dump/images "
        f"--output {SHARED}/dataset --images-per-shard 20",
    )
    assert "images in" in told
    assert json.loads((cluster.shared / "dataset/dataset.json").read_text())


def test_training_whose_driver_is_killed_is_resumed_by_the_same_command(cluster: Cluster) -> None:
    arguments = f"{TRAIN} --name first"
    submitted = cluster.start_submit("train_openimages.py", arguments)
    cluster.wait_for_checkpoint("first", submitted)
    assert cluster.kill_jobs()
    told, _ = submitted.communicate(timeout=60)
    assert submitted.returncode != 0, told
    told = cluster.submit("train_openimages.py", arguments)
    assert "best checkpoint" in told
    assert cluster.curve("first") == cluster.expected_curve(EPOCHS)


def test_two_workers_were_on_two_hosts(cluster: Cluster) -> None:
    addresses = {node["node_id"]: node["node_ip"] for node in cluster.list("nodes")}
    used = defaultdict(set)
    for worker in cluster.list("actors", "class_name=RayTrainWorker"):
        used[worker["job_id"]].add(addresses[worker["node_id"]])
    workers = {cluster.machines[name].address for name in ("worker1", "worker2")}
    assert list(used.values()) == [workers, workers]


def test_a_host_that_is_lost_in_training_costs_no_point_of_the_curve(cluster: Cluster) -> None:
    submitted = cluster.start_submit("train_openimages.py", f"{TRAIN} --name second")
    cluster.wait_for_checkpoint("second", submitted)
    assert cluster.machines["worker2"].kill("raylet/raylet")
    told, _ = submitted.communicate(timeout=600)
    print(told)
    assert submitted.returncode == 0
    assert cluster.curve("second") == cluster.expected_curve(EPOCHS)
    assert cluster.weights("second", EPOCHS) == cluster.weights("first", EPOCHS)


def test_a_driver_that_is_told_to_end_saves_its_step(cluster: Cluster) -> None:
    arguments = f"{TRAIN} --name ended --checkpoint-every 1"
    submitted = cluster.start_submit("train_openimages.py", arguments)
    cluster.wait_for_checkpoint("ended", submitted)
    assert cluster.terminate_job() == 1
    told, _ = submitted.communicate(timeout=200)
    assert "error: SIGTERM; repeat the command to go on" in told
    cluster.submit("train_openimages.py", arguments)
    assert cluster.curve("ended") == cluster.expected_curve(EPOCHS)
    assert cluster.weights("ended", EPOCHS) == cluster.weights("first", EPOCHS)


def test_a_ray_job_evaluates_the_checkpoint(cluster: Cluster) -> None:
    told = cluster.submit_ray_job(
        f"evaluate_openimages.py --checkpoint {SHARED}/runs/first --dataset {SHARED}/dataset"
    )
    assert "BoostLU on" in told
    assert "succeeded" in told
