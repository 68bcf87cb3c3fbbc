"""Cables, storage and machines that go away while the cluster trains; then its end."""

from __future__ import annotations

import sys
import time

import pytest

from tests.hosts.hosts import SHARED
from tests.hosts.story import EPOCHS, TRAIN, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_a_cable_and_a_storage_that_are_briefly_gone(cluster: Cluster) -> None:
    submitted = cluster.start_submit(
        "train_openimages.py", f"{TRAIN} --name brief --checkpoint-every 1"
    )
    cluster.wait_for_checkpoint("brief", submitted)
    with cluster.machines["worker1"].unplugged():
        time.sleep(4)
    with cluster.read_only_storage():
        time.sleep(8)  # steps, each of which wants to leave a checkpoint
        ended = submitted.poll()
    told, _ = submitted.communicate(timeout=600)
    print(told)
    assert ended is None
    assert submitted.returncode == 0
    assert cluster.curve("brief") == cluster.expected_curve(EPOCHS)
    assert cluster.weights("brief", EPOCHS) == cluster.weights("first", EPOCHS)


def test_an_elastic_run_goes_on_without_a_machine_and_again_with_it(cluster: Cluster) -> None:
    # No end of its own: how long machines take to be missed, and to return, varies.
    submitted = cluster.start_submit(
        "train_openimages.py", f"{TRAIN} --name elastic --workers 1:2 --epochs 1000"
    )
    cluster.wait_for_checkpoint("elastic", submitted)
    cluster.wait_for_world("elastic", 2, submitted)
    with cluster.machines["worker2"].unplugged():
        cluster.wait_for_world("elastic", 1, submitted)
    cluster.wait_for_world("elastic", 2, submitted)
    assert cluster.terminate_job() == 1
    told, _ = submitted.communicate(timeout=200)
    assert "error: SIGTERM; repeat the command to go on" in told
    runs, steps = cluster.curve("elastic", status="KILLED")
    assert (runs, steps) == cluster.expected_curve(len(steps))


def test_a_machine_that_is_to_be_taken_away_costs_no_step(cluster: Cluster) -> None:
    cluster.wait_for_nodes(3)
    submitted = cluster.start_submit(
        "train_openimages.py", f"{TRAIN} --name drained --workers 1:2 --epochs 1000"
    )
    cluster.wait_for_checkpoint("drained", submitted)
    cluster.wait_for_world("drained", 2, submitted)
    addresses = {node["node_ip"]: node["node_id"] for node in cluster.list("nodes", "state=ALIVE")}
    node = addresses[cluster.machines["worker2"].address]
    cluster.head.run(
        f"ray drain-node --node-id {node} --reason DRAIN_NODE_REASON_PREEMPTION "
        "--reason-message test --deadline-remaining-seconds 300"
    )
    cluster.wait_until_gone(node, submitted)
    assert cluster.terminate_job() == 1
    told, _ = submitted.communicate(timeout=200)
    print(told)
    assert "a node is to be taken away: saved, going on without it" in told
    assert "SIGTERM; repeat the command to go on" in told
    runs, steps = cluster.curve("drained", status="KILLED")
    assert (runs, steps) == cluster.expected_curve(len(steps))


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
