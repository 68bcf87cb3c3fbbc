"""Run the commands that a user types for a cluster, and wait for what they cause."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mlflow.tracking import MlflowClient

from pipeline.models import checkpoint
from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.hosts.hosts import SHARED, Host
from tests.hosts.namespaces import HOME

_RAY = "--log-style pretty --log-color false ~/cluster.yaml"
_TRAINING = "train_openimages.py"
EPOCHS = 4
TRAIN = (
    f"--preset demo --dataset {SHARED}/dataset --storage {SHARED}/runs --image-size 64 "
    f"--workers 2 --cpus-per-worker 2 --epochs {EPOCHS}"
)


class Cluster:
    """A cluster, used from the laptop.

    Args:
        machines: laptop, head and workers by name.
    """

    def __init__(self, machines: Mapping[str, Host]) -> None:
        self.machines = machines
        self.laptop, self.head = machines["laptop"], machines["head"]

    @property
    def nodes_by_name(self) -> dict[str, Host]:
        """Machines that Ray runs on, by name."""
        return {name: host for name, host in self.machines.items() if name != "laptop"}

    @property
    def shared(self) -> Path:
        """The directory that all machines share, seen from outside."""
        return self.head.disk.parent / "shared"

    def up(self) -> None:
        """`ray up`, and wait for the workers."""
        self.laptop.run(f"ray up --yes {_RAY}")
        self.wait_for_nodes(len(self.nodes_by_name))

    def submit(self, job: str, arguments: str, **options: Any) -> str:
        """`ray submit` a job; return what it printed."""
        return self.laptop.run(f"ray submit {_RAY} jobs/{job} -- {arguments}", **options)

    def shard(self) -> str:
        """`ray submit` the job that makes the dataset; return what it printed."""
        return self.submit(
            "shard_openimages.py",
            f"--annotations {SHARED}/dump --images {SHARED}/dump/images "
            f"--output {SHARED}/dataset --images-per-shard 20",
        )

    def start_submit(self, job: str, arguments: str) -> subprocess.Popen[str]:
        """`ray submit` a job without waiting for it."""
        return self.laptop.start(f"ray submit {_RAY} jobs/{job} -- {arguments}")

    def start_training(self, name: str, options: str = "") -> subprocess.Popen[str]:
        """`ray submit` a training, and wait for its first checkpoint."""
        training = self.start_submit(_TRAINING, f"{TRAIN} --name {name} {options}")
        self.wait_for_checkpoint(name, training)
        return training

    def end_training(self, training: subprocess.Popen[str]) -> str:
        """Ask the driver of a training to end; return what the training printed."""
        assert self.head.kill(f"python {HOME}/{_TRAINING}", signal.SIGTERM) == 1, "not its shell"
        output, _ = training.communicate(timeout=200)
        print(output)
        assert "error: SIGTERM; repeat the command to go on" in output
        return output

    def submit_ray_job(self, command: str) -> str:
        """`ray job submit` through a forwarded dashboard port; return the job's log."""
        return self.laptop.run(
            "export RAY_AUTH_MODE=token; (ray dashboard ~/cluster.yaml > /tmp/dashboard.log 2>&1 &)"
            "; until (: > /dev/tcp/localhost/8265) 2> /dev/null; do sleep 0.5; done; "
            f"ray job submit --address http://localhost:8265 --working-dir jobs -- python {command}"
        )

    def down(self) -> None:
        """`ray down`."""
        self.laptop.run(f"ray down --yes {_RAY}")

    def list(self, kind: str, *filters: str) -> list[dict[str, Any]]:
        """Ask Ray's State API on the head."""
        chosen = " ".join(f"--filter {filter}" for filter in filters)
        output = self.head.run(f"ray list {kind} --detail --format json {chosen}")
        return json.loads(output[output.index("[") :])

    def curve(self, name: str, status: str = "FINISHED") -> tuple[int, list[int]]:
        """Read (MLflow runs of that name, steps of its validation curve) from the head's disk."""
        client = MlflowClient(f"sqlite:///{self.head.disk / 'root' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("demo")
        runs = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
        history = client.get_metric_history(runs[0].info.run_id, "val/mAP/all")
        assert runs[0].info.status == status
        return len(runs), [point.step for point in history]

    def expected_curve(self, epochs: int) -> tuple[int, list[int]]:
        """Compute `curve` of one undisturbed run: a point per epoch, at the images seen so far."""
        shards = Dataset.open(self.shared / "dataset").shards("train")
        images = sum(shard.images for shard in shards)
        return 1, [epoch * images for epoch in range(1, epochs + 1)]

    def checkpoints(self, name: str) -> list[tuple[checkpoint.Meta, Path]]:
        """List the checkpoints of a run, the latest last."""
        checkpoints = []
        for path in (self.shared / "runs" / name).glob("checkpoint_2*/meta.json"):
            with contextlib.suppress(OSError, InputError):  # it is being removed, or written
                checkpoints.append((checkpoint.read_meta(path.parent), path.parent))
        return sorted(checkpoints, key=lambda each: (each[0].epoch, each[0].step))

    def weights(self, name: str, epochs: int) -> str:
        """Hash a run's weights after its last epoch."""
        meta, directory = self.checkpoints(name)[-1]
        assert (meta.epoch, meta.step) == (epochs, 0)
        state = torch.load(directory / "model.pt", weights_only=True)
        digest = hashlib.sha256()
        for key in sorted(state):
            digest.update(state[key].numpy().tobytes())
        return digest.hexdigest()

    @contextlib.contextmanager
    def read_only_storage(self) -> Iterator[None]:
        """Make the shared directory read-only until the block ends."""
        for mode in ("ro", "rw"):
            for host in self.nodes_by_name.values():
                host.run(f"mount -o remount,bind,{mode} {SHARED}")
            if mode == "ro":
                yield

    def wait_for_nodes(self, count: int) -> None:
        """Wait until that many nodes have joined."""
        nodes = self.nodes_by_name.values()

        def joined() -> bool:
            # The second is the dearer: a Python process that connects to the cluster.
            return (
                all(host.processes("raylet/raylet") for host in nodes)
                and len(self.list("nodes", "state=ALIVE")) >= count
            )

        _wait(joined, 180, report=lambda: self.head.run("ray status", status=None))

    def wait_for_checkpoint(self, run: str, training: subprocess.Popen[str]) -> None:
        """Wait until Ray counts the first checkpoint of a training as its own."""
        snapshot = self.shared / f"runs/{run}/checkpoint_manager_snapshot.json"
        self._wait_for(
            lambda: snapshot.is_file() and "checkpoint_2" in snapshot.read_text(), training, 400
        )

    def wait_for_world(self, run: str, size: int, training: subprocess.Popen[str]) -> None:
        """Wait until the latest checkpoint of a training is one of that many workers."""
        self._wait_for(
            lambda: [meta.world_size for meta, _ in self.checkpoints(run)][-1:] == [size],
            training,
            600,
        )

    def wait_until_gone(self, node: str, training: subprocess.Popen[str]) -> None:
        """Wait until a drained node has ended, which it does as soon as a training left it."""
        self._wait_for(
            lambda: all(each["node_id"] != node for each in self.list("nodes", "state=ALIVE")),
            training,
            200,
        )

    def kill_jobs(self) -> int:
        """Kill what runs a training, its shell too; return how many processes there were."""
        return self.head.kill(_TRAINING)

    def _wait_for(
        self, what: Callable[[], bool], training: subprocess.Popen[str], seconds: float
    ) -> None:
        """Wait for something that a training does as long as it runs."""

        def report() -> str:
            self.kill_jobs()
            return training.communicate(timeout=60)[0]

        _wait(lambda: training.poll() is not None or what(), seconds, report)
        assert what(), f"ended before:\n{report()}"


def _wait(what: Callable[[], bool], seconds: float, report: Callable[[], str]) -> None:
    """Wait for something; where it does not come, fail with a report."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"never came:\n{report()}"
        time.sleep(0.2)
