"""Run one cluster of a head and two workers for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.hosts import hosts
from tests.hosts.clusterfile import for_namespaces
from tests.hosts.namespaces import missing
from tests.hosts.story import TRAIN, Cluster


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Only `-m cluster` runs these: `-m "not ray"` replaces the default that leaves them out."""
    return True if "cluster" not in config.option.markexpr else None


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, hosts.Host]]:
    """Make a laptop that sees the checkout, and the on-premise file's machines, which do not."""
    lacks = missing()
    if lacks:
        pytest.skip(f"the cluster test needs {', '.join(lacks)}")
    provider = shipped()["provider"]
    addresses = {
        "laptop": f"{provider['head_ip'].rpartition('.')[0]}.5",
        "head": provider["head_ip"],
        **{f"worker{n}": address for n, address in enumerate(provider["worker_ips"], 1)},
    }
    directory = tmp_path_factory.mktemp("machines") / "disks"
    with hosts.machines(directory, addresses, laptop="laptop") as running:
        yield running


@pytest.fixture(scope="session")
def cluster(machines: dict[str, hosts.Host]) -> Cluster:
    """Start the cluster (`ray up`) with both workers; put a small dump on the shared directory."""
    laptop = machines["laptop"]
    file = laptop.disk / "root/cluster.yaml"
    file.write_text(yaml.safe_dump(for_namespaces(shipped()), sort_keys=False))
    laptop.run("ray get-auth-token --generate")
    laptop.run(
        f"python jobs/make_demo_dump.py --output {hosts.SHARED}/dump"
        " --train 96 --validation 32 --test 32 --side 96"
    )
    started = Cluster(machines)
    started.up()
    return started


@pytest.fixture(scope="session")
def first(cluster: Cluster) -> None:
    """Make the dataset and the run "first" where no test before has."""
    if not (cluster.shared / "dataset/dataset.json").exists():
        cluster.shard()
    if not cluster.checkpoints("first"):
        cluster.submit("train_openimages.py", f"{TRAIN} --name first")


@pytest.fixture(autouse=True)
def no_job_is_left(cluster: Cluster) -> Iterator[None]:
    """Kill jobs that a failed test has left to the next one."""
    yield
    cluster.kill_jobs()


def shipped() -> dict[str, Any]:
    """Read the cluster file of this repository."""
    return yaml.safe_load((hosts.REPOSITORY / "ray_cluster_onprem.yaml").read_text())
