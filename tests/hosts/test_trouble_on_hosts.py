"""Cables, storage and machines that go away while the cluster trains; then its end."""

from __future__ import annotations

import sys
import time

import pytest

from tests.hosts.hosts import SHARED
from tests.hosts.story import EPOCHS, TRAIN, Cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("first"),
]
# Without an end: how long machines take to be missed, and to return, varies.
ELASTIC = "--workers 1:2 --epochs 1000"


def test_a_cable_and_a_storage_that_are_briefly_gone(cluster: Cluster) -> None:
    training = cluster.start_training("brief", "--checkpoint-every 1")
    with cluster.machines["worker1"].unplugged():
        time.sleep(4)
    with cluster.read_only_storage():
        time.sleep(8)  # steps, each of which wants to leave a checkpoint
        ended = training.poll()
    output, _ = training.communicate(timeout=600)
    assert ended is None, output
    assert training.returncode == 0, output
    assert cluster.curve("brief") == cluster.expected_curve(EPOCHS)
    assert cluster.weights("brief", EPOCHS) == cluster.weights("first", EPOCHS)


def test_an_elastic_run_goes_on_without_a_machine_and_again_with_it(cluster: Cluster) -> None:
    training = cluster.start_training("elastic", ELASTIC)
    cluster.wait_for_world("elastic", 2, training)
    with cluster.machines["worker2"].unplugged():
        cluster.wait_for_world("elastic", 1, training)
    cluster.wait_for_world("elastic", 2, training)
    output = cluster.end_training(training)
    assert "more workers fit now: saved, going on with them" in output
    runs, steps = cluster.curve("elastic", status="KILLED")
    assert (runs, steps) == cluster.expected_curve(len(steps))


def test_a_machine_that_is_to_be_taken_away_costs_no_step(cluster: Cluster) -> None:
    cluster.wait_for_nodes(3)
    training = cluster.start_training("drained", ELASTIC)
    cluster.wait_for_world("drained", 2, training)
    addresses = {node["node_ip"]: node["node_id"] for node in cluster.list("nodes", "state=ALIVE")}
    node = addresses[cluster.machines["worker2"].address]
    cluster.head.run(
        f"ray drain-node --node-id {node} --reason DRAIN_NODE_REASON_PREEMPTION "
        "--reason-message test --deadline-remaining-seconds 300"
    )
    cluster.wait_until_gone(node, training)
    output = cluster.end_training(training)
    assert "a node is to be taken away: saved, going on without it" in output
    runs, steps = cluster.curve("drained", status="KILLED")
    assert (runs, steps) == cluster.expected_curve(len(steps))


def test_preflight_names_the_node_that_lacks_the_mount(cluster: Cluster) -> None:
    cluster.wait_for_nodes(3)
    other = cluster.machines["worker2"]
    other.run(f"mount -t tmpfs tmpfs {SHARED}")
    output = cluster.submit("train_openimages.py", f"{TRAIN} --name unseen", status=1)
    other.run(f"umount {SHARED}")
    assert f"preflight: node {other.address}: cannot read what the driver writes" in output
    assert f"error: {SHARED}/runs: not shared with {other.address}. Fix: mount" in output


def test_preflight_names_the_node_that_differs(cluster: Cluster) -> None:
    cluster.wait_for_nodes(3)
    other = cluster.machines["worker1"]
    metadata = f"{sys.prefix}/lib/python*/site-packages/webdataset-*.dist-info/METADATA"
    other.run(f"sed -i.kept 's/^Version: .*/Version: 0.1/' {metadata}")
    try:
        output = cluster.submit(
            "evaluate_openimages.py",
            f"--checkpoint {SHARED}/runs/first --dataset {SHARED}/dataset",
            status=1,
        )
    finally:  # the machines go on under Slurm
        other.run(f"for file in {metadata}; do mv $file.kept $file; done")
    assert f"preflight: node {other.address}: webdataset 0.1, driver " in output
    assert f"error: the job cannot run on {other.address}: " in output


def test_ray_down_ends_it(cluster: Cluster) -> None:
    cluster.down()
    assert not cluster.head.processes("raylet/raylet")
