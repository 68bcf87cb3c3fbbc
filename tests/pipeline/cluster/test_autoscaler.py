"""Ray's own autoscaler starts the nodes that a training waits for, of the type that holds them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.home import Home
from tests.support.models import BACKBONE
from tests.support.waiting import wait_until

pytestmark = pytest.mark.ray

HEAD = "ray.head.default"
OBJECT_STORE = 80_000_000


def cluster_file(gcs: str) -> dict[str, Any]:
    """A head without CPUs, and two types of nodes, which Ray's provider for tests starts here."""
    small, large = ({"CPU": cpus, "object_store_memory": OBJECT_STORE} for cpus in (1, 2))
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray")
    return {
        "cluster_name": "pretended",
        "max_workers": 3,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 5,
        "provider": {"type": "fake_multinode", "gcs_address": gcs, "launch_multiple": True},
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": {"resources": small, "node_config": {}, "max_workers": 3},
            "large": {"resources": large, "node_config": {}, "max_workers": 2},
        },
        **{f"{name}_commands": [] for name in (*commands, "worker_start_ray")},
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


class Cluster:
    """A running head and the nodes that its autoscaler starts.

    Args:
        home: of the head and its jobs.
        folder: of Ray's sockets and logs, of a short name.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        import ray

        with socket.create_server(("", 0)) as free:
            address = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
        self.home = Home(home, address)
        file = home / "ray_bootstrap_config.yaml"  # as `ray up` leaves it
        file.write_text(yaml.safe_dump(cluster_file(address)))
        self._log = home / "ray.log"
        options = {
            "port": address.rpartition(":")[2],
            "num-cpus": 0,
            "num-gpus": 0,
            "object-store-memory": OBJECT_STORE,
            "temp-dir": folder,
            "autoscaling-config": file,
        }
        with self._log.open("w") as log:
            self._process = psutil.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                    *(f"--{name}={value}" for name, value in options.items()),
                    *("--include-dashboard=false", "--disable-usage-stats"),
                ],
                env={
                    **{k: v for k, v in self.home.environment.items() if k != "RAY_ADDRESS"},
                    "RAY_FAKE_CLUSTER": "1",
                    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                    "RAY_raylet_start_wait_time_s": "120",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def started(self) -> bool:
        """Wait until the head has started, or given up as it does on a busy machine."""
        wait_until(lambda: self._process.poll() is not None or "runtime started" in self.log)
        return self._process.poll() is None

    def node_types(self) -> list[str]:
        """The types of the nodes that were started, by what their raylets were told."""
        types = []
        for each in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has just ended
                if each.name() == "raylet":
                    types.append(each.environ().get("RAY_NODE_TYPE_NAME"))
        return sorted(name for name in types if name is not None)

    def end(self) -> None:
        """Kill all of its processes."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _processes(self) -> list[psutil.Process]:
        """List what the head and its autoscaler have started: all of the head's session."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(process.pid) == self._process.pid:
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            home = tmp_path_factory.mktemp("home")
            shutil.copy(empty_store, home)
            folder = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
            running = Cluster(home, Path(stack.enter_context(folder)))
            stack.callback(running.end)
            if running.started():
                break
        else:
            raise AssertionError(running.log)
        yield running


def train(cluster: Cluster, squares: Path, *options: str, status: int = 0) -> str:
    return cluster.home.run(
        "train_openimages.py",
        *("--preset", "demo", "--name", "first", "--dataset", str(squares)),
        *("--backbone", BACKBONE, "--image-size", "32", "--epochs", "1"),
        *options,
        status=status,
    )


def test_workers_that_no_node_type_holds_are_refused_at_once(
    cluster: Cluster, squares: Path
) -> None:
    output = train(cluster, squares, "--workers", "2", "--cpus-per-worker", "3", status=2)
    assert "2 workers of 3 CPUs and 0 GPUs never fit on this cluster of at most 3 nodes" in output
    for kind in ("small (1 CPUs, 0 GPUs)", "large (2 CPUs, 0 GPUs)"):
        assert f"node type {kind} holds none" in output
    assert cluster.node_types() == []


def test_a_training_gets_the_nodes_that_it_waits_for(cluster: Cluster, squares: Path) -> None:
    workers = ("--workers", "2", "--cpus-per-worker", "2", "--wait-for-workers", "5")
    output = train(cluster, squares, *workers)
    assert "waiting for nodes: 0 of 2 workers of 2 CPUs and 0 GPUs fit" in output
    assert "best checkpoint" in output
    assert cluster.node_types() == ["large", "large"]
