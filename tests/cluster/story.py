"""What a user does with a cluster, as the commands a user types."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from tests.cluster.hosts import SHARED, Host

_RAY = "--log-style pretty --log-color false ~/cluster.yaml"
TRAIN = (
    f"--preset demo --dataset {SHARED}/dataset --storage {SHARED}/runs --image-size 64 "
    "--workers 2 --cpus-per-worker 2"
)


class Cluster:
    """A running cluster, used from the laptop."""

    def __init__(self, machines: Mapping[str, Host]) -> None:
        self.machines = machines
        self.laptop, self.head = machines["laptop"], machines["head"]

    def submit(self, job: str, arguments: str, **options: Any) -> str:
        """`ray submit` a job; return what it printed."""
        return self.laptop.run(f"ray submit {_RAY} jobs/{job} -- {arguments}", **options)

    def start_submit(self, job: str, arguments: str) -> subprocess.Popen[str]:
        """`ray submit` a job without waiting for it."""
        return self.laptop.start(f"ray submit {_RAY} jobs/{job} -- {arguments}")

    def execute(self, command: str, **options: Any) -> str:
        """`ray exec` a command on the head."""
        return self.laptop.run(f"ray exec {_RAY} '{command}'", **options)

    def down(self) -> str:
        """`ray down`."""
        return self.laptop.run(f"ray down --yes {_RAY}")

    def nodes(self) -> list[dict[str, Any]]:
        """The living nodes, from Ray's State API on the head."""
        return self.list("nodes", "state=ALIVE")

    def list(self, kind: str, filters: str) -> list[dict[str, Any]]:
        """Ask Ray's State API on the head."""
        told = self.head.run(f"ray list {kind} --detail --format json --filter {filters}")
        return json.loads(told[told.index("[") :])

    def wait_for_nodes(self, count: int, seconds: float = 120) -> None:
        """Wait until that many nodes have joined."""
        deadline = time.monotonic() + seconds
        names = ("head", "worker1", "worker2")
        while sum(bool(self.machines[name].processes("raylet/raylet")) for name in names) < count:
            assert time.monotonic() < deadline, self.head.run("ray status", status=None)
            time.sleep(0.5)
        while len(self.nodes()) < count:  # dearer: a Python process that connects to the cluster
            assert time.monotonic() < deadline, self.head.run("ray status", status=None)
