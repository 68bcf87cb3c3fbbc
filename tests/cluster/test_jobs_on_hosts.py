"""The commands of docs/cluster.md on a laptop, a head and two workers: one story in one order."""

from __future__ import annotations

import json
import sys
from collections import defaultdict

import pytest
from mlflow.tracking import MlflowClient

from sharding.manifest import Dataset
from tests.cluster.hosts import SHARED
from tests.cluster.story import TRAIN, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
EPOCHS = 3


def curve(cluster: Cluster, name: str) -> tuple[int, list[int]]:
    """(MLflow runs of that name, steps of its validation curve), from the head's own disk."""
    client = MlflowClient(f"sqlite:///{cluster.head.disk / 'root' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    history = client.get_metric_history(runs[0].info.run_id, "val/mAP/all")
    assert runs[0].info.status == "FINISHED"
    return len(runs), [point.step for point in history]


def expected_curve(cluster: Cluster) -> tuple[int, list[int]]:
    """One run; one point per epoch, at the number of images seen."""
    shards = Dataset.open(cluster.shared / "dataset").shards("train")
    images = sum(shard.images for shard in shards)
    return 1, [epoch * images for epoch in range(1, EPOCHS + 1)]


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
    arguments = f"{TRAIN} --name first --epochs {EPOCHS}"
    submitted = cluster.start_submit("train_openimages.py", arguments)
    cluster.wait_for_checkpoint("first", submitted)
    assert cluster.head.kill("train_openimages.py")
    told, _ = submitted.communicate(timeout=60)
    assert submitted.returncode != 0, told
    told = cluster.submit("train_openimages.py", arguments)
    assert "best checkpoint" in told
    assert curve(cluster, "first") == expected_curve(cluster)


def test_two_workers_were_on_two_hosts(cluster: Cluster) -> None:
    addresses = {node["node_id"]: node["node_ip"] for node in cluster.list("nodes")}
    used = defaultdict(set)
    for worker in cluster.list("actors", "class_name=RayTrainWorker"):
        used[worker["job_id"]].add(addresses[worker["node_id"]])
    workers = {cluster.machines[name].address for name in ("worker1", "worker2")}
    assert list(used.values()) == [workers, workers]


def test_a_host_that_is_lost_in_training_costs_no_point_of_the_curve(cluster: Cluster) -> None:
    submitted = cluster.start_submit(
        "train_openimages.py", f"{TRAIN} --name second --epochs {EPOCHS}"
    )
    cluster.wait_for_checkpoint("second", submitted)
    assert cluster.machines["worker2"].kill("raylet/raylet")
    told, _ = submitted.communicate(timeout=600)
    print(told)
    assert submitted.returncode == 0
    assert curve(cluster, "second") == expected_curve(cluster)


def test_a_ray_job_evaluates_the_checkpoint(cluster: Cluster) -> None:
    told = cluster.submit_ray_job(
        f"evaluate_openimages.py --checkpoint {SHARED}/runs/first --dataset {SHARED}/dataset"
    )
    assert "BoostLU on" in told
    assert "succeeded" in told


def test_preflight_names_the_node_that_differs(cluster: Cluster) -> None:
    cluster.wait_for_nodes(3)
    other = cluster.machines["worker1"]
    metadata = f"{sys.prefix}/lib/python*/site-packages/webdataset-*.dist-info/METADATA"
    other.run(f"sed -i 's/^Version: .*/Version: 0.1/' {metadata}")
    told = cluster.submit(
        "evaluate_openimages.py",
        f"--checkpoint {SHARED}/runs/first --dataset {SHARED}/dataset",
        status=1,
    )
    assert f"preflight: node {other.address}: webdataset 0.1, driver " in told
    assert f"error: the job cannot run on {other.address}: " in told


def test_ray_down_ends_it(cluster: Cluster) -> None:
    cluster.down()
    assert not cluster.head.processes("raylet/raylet")
