"""The same machines under Slurm, once the cluster of `ray up` has ended."""

from __future__ import annotations

import pytest

from tests.hosts.slurm import Job
from tests.hosts.story import EPOCHS, TRAIN, Cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("first"),
]


def test_a_job_at_its_time_limit_is_queued_again_and_ends_as_if_undisturbed(
    cluster: Cluster,
) -> None:
    cluster.down()
    job = Job(cluster, f"{TRAIN} --name slurm --checkpoint-every 1")
    cluster.wait_for_checkpoint("slurm", job.process)
    job.reach_the_time_limit()
    assert job.end() == 0
    assert job.log.count("error: SIGTERM; repeat the command to go on") == 1
    assert job.log.count("exit code 75: the job is queued again") == 1
    assert cluster.curve("slurm") == cluster.expected_curve(EPOCHS)
    assert cluster.weights("slurm", EPOCHS) == cluster.weights("first", EPOCHS)
    for host in cluster.nodes_by_name.values():
        assert not host.processes("raylet/raylet")
