"""The commands of docs/cluster.md on a laptop, a head and two workers, in a user's order."""

from __future__ import annotations

import json

import pytest

from tests.cluster.hosts import SHARED
from tests.cluster.story import TRAIN, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]


def test_machines_have_the_code_from_the_mounts_alone(cluster: Cluster) -> None:
    place = "import pipeline; print(pipeline.__file__)"
    for name in ("head", "worker1", "worker2"):
        told = cluster.machines[name].run(f'python -c "{place}"')
        assert told.strip() == "/root/openimages/pipeline/__init__.py"


def test_the_dump_becomes_a_dataset(cluster: Cluster) -> None:
    told = cluster.submit(
        "shard_openimages.py",
        f"--annotations {SHARED}/dump --images {SHARED}/dump/images "
        f"--output {SHARED}/dataset --images-per-shard 20",
    )
    assert "images in" in told
    shared = cluster.head.disk.parent / "shared"
    assert json.loads((shared / "dataset/dataset.json").read_text())


def test_two_workers_train_on_two_hosts(cluster: Cluster) -> None:
    told = cluster.submit("train_openimages.py", f"{TRAIN} --name first --epochs 1")
    assert "best checkpoint" in told
    workers = cluster.list("actors", "class_name=RayTrainWorker")
    addresses = {node["node_id"]: node["node_ip"] for node in cluster.nodes()}
    assert {addresses[worker["node_id"]] for worker in workers} == {
        cluster.machines["worker1"].address,
        cluster.machines["worker2"].address,
    }
    assert list((cluster.head.disk.parent / "shared/runs/first").glob("checkpoint_*"))


def test_the_checkpoint_is_evaluated_and_in_mlflow(cluster: Cluster) -> None:
    told = cluster.submit(
        "evaluate_openimages.py",
        f"--checkpoint {SHARED}/runs/first --dataset {SHARED}/dataset --split test",
    )
    assert "BoostLU on" in told


def test_ray_job_submit_works_too(cluster: Cluster) -> None:
    told = cluster.laptop.run(
        "export RAY_AUTH_MODE=token; "
        f"ray dashboard ~/cluster.yaml > /tmp/dashboard.log 2>&1 & sleep 4; "
        "ray job submit --address http://localhost:8265 --working-dir jobs -- "
        f"python train_openimages.py {TRAIN} --name first --epochs 2"
    )
    assert "epoch 2/2" in told


def test_ray_down_ends_it(cluster: Cluster) -> None:
    cluster.down()
    assert not cluster.head.processes("raylet")
