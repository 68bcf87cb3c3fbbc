"""The Slurm script starts Ray on every node, forwards SIGTERM, and queues itself again on 75 only.

The script runs as it is shipped; `srun`, `scontrol` and `ray` are small programs that note how they
were called, and the training is one that ends as a test says.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy/slurm/train.sbatch"
NODES = 3

# `srun` starts its program as each node would, and ends it as Slurm does: by SIGTERM.
_PROGRAMS = {
    "srun": """
        echo "srun $*" >> "$CALLS"
        while [[ $1 == --* ]]; do
            [[ $1 != --ntasks=* ]] || tasks=${1#*=}
            shift
        done
        end() { # a child that has only just begun may lose a signal
            for job in $(jobs -p); do while kill "$job" 2>/dev/null; do sleep 0.1; done; done
        }
        trap "${LOSES:+trap }end${LOSES:+ TERM}" TERM # LOSES: the first signal has no effect
        for ((i = 0; i < tasks; i++)); do "$@" & done
        while [[ -n $(jobs -pr) ]]; do wait; done
    """,
    "scontrol": """
        echo "scontrol $*" >> "$CALLS"
        [[ $1 != show ]] || printf 'node1\\nnode2\\nnode3\\n'
    """,
    "ray": """
        case "$1" in
            get-auth-token) echo a-secret ;;
            list) grep '^ray start' "$CALLS" | head -n "$MOST_JOIN" | tr '\\n' , |
                sed 's/[^,]*,/{"node_id": "ab"}, /g' ;; # one line, as Ray writes it
            start)
                echo "ray $*" >> "$CALLS"
                [[ -z ${FAILS-} ]] || exit 1
                exec sleep 300 ;;
        esac
    """,
}
_TRAINING = """
import os, pathlib, signal, sys, time
calls = open(os.environ["CALLS"], "a", buffering=1)
print("train", *sys.argv[1:], os.environ["RAY_ADDRESS"], os.environ["RAY_AUTH_MODE"], file=calls)
ends = os.environ["ENDS"]
if ends == "imports":
    print("imports", file=calls)
    time.sleep(300)
if ends != "SIGTERM":
    sys.exit(int(ends))
def save(*_):
    time.sleep(0.5)
    print("saved", file=calls)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("steps", file=calls)
time.sleep(300)
"""


class Job:
    """The script as Slurm runs it, in a directory of its own."""

    def __init__(self, directory: Path, ends: str, **environment: str) -> None:
        self._calls = directory / "calls"
        programs = directory / "bin"
        programs.mkdir()
        for name, body in _PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/bash\n{body}")
            (programs / name).chmod(0o755)
        (programs / "python").symlink_to(sys.executable)
        (directory / "jobs").mkdir()
        (directory / "jobs/train_openimages.py").write_text(_TRAINING)
        self._process = subprocess.Popen(
            ["bash", str(SCRIPT), "--run", "my run"],
            env={
                **{name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ},
                "PATH": f"{programs}:/usr/bin:/bin",
                "CALLS": str(self._calls),
                "MOST_JOIN": str(NODES),
                "ENDS": ends,
                "SLURM_SUBMIT_DIR": str(directory),
                "SLURM_JOB_ID": "41",
                "SLURM_JOB_NUM_NODES": str(NODES),
                "SLURM_JOB_NODELIST": "node[1-3]",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def wait_for(self, call: str) -> None:
        end = time.monotonic() + 300
        while call not in self.calls:
            assert time.monotonic() < end, self.calls
            time.sleep(0.02)

    def tell_to_end(self) -> None:
        """Signal the batch shell alone, as `--signal=B:TERM` does."""
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> tuple[int, str]:
        """Wait for the script; its status and output, once nothing of it runs any more."""
        output, _ = self._process.communicate(timeout=300)
        assert self._remaining() == []
        return self._process.returncode, output

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()

    def _remaining(self) -> list[str]:
        listed = subprocess.run(
            ["ps", "-o", "args=", "--sid", str(self._process.pid)], capture_output=True, text=True
        )
        return listed.stdout.splitlines()


Start = Callable[..., Job]


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Start:
    def start_job(ends: str, **environment: str) -> Job:
        job = Job(tmp_path, ends, **environment)
        request.addfinalizer(job.kill)
        return job

    return start_job


def requeued(job: Job) -> bool:
    return "scontrol requeue 41" in job.calls


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_it_ends_as_the_training_does_and_is_not_queued_again(start: Start, code: int) -> None:
    job = start(str(code))
    status, output = job.end()
    assert (status, requeued(job)) == (code, False), output


def test_75_queues_it_again(start: Start) -> None:
    job = start("75")
    status, output = job.end()
    assert (status, requeued(job)) == (75, True), output
    assert job.calls[-1] == "scontrol requeue 41"


def test_it_is_not_queued_again_for_ever(start: Start) -> None:
    job = start("75", SLURM_RESTART_COUNT="50")
    assert job.end()[0] == 75
    assert not requeued(job)


def test_ray_runs_once_on_every_node_before_the_training(start: Start) -> None:
    job = start("0")
    job.end()
    head, workers = sorted(call for call in job.calls if call.startswith("srun"))
    assert "--nodes=1 " in head
    assert "--nodelist=node1 " in head
    assert "--head --port=6379" in head
    assert f"--nodes={NODES - 1} --ntasks={NODES - 1} --ntasks-per-node=1" in workers
    assert "--exclude=node1 " in workers
    assert "--address=node1:6379" in workers
    assert all("--overlap" in call and "ray start --block" in call for call in (head, workers))
    *before, last = job.calls
    assert last == "train --run my run node1:6379 token"
    assert sum(call.startswith("ray start") for call in before) == NODES


def test_sigterm_reaches_the_training_which_saves_before_ray_ends(start: Start) -> None:
    job = start("SIGTERM")
    job.wait_for("steps")
    job.tell_to_end()
    status, output = job.end()
    assert (status, requeued(job)) == (75, True), output
    assert job.calls[-2:] == ["saved", "scontrol requeue 41"]


def test_sigterm_before_the_training_queues_it_again(start: Start) -> None:
    job = start("0", MOST_JOIN="0")
    job.wait_for(f"scontrol show hostnames node[1-{NODES}]")
    job.tell_to_end()
    assert job.end()[0] == 75
    assert requeued(job)
    assert not [call for call in job.calls if call.startswith("train")]


def test_sigterm_before_the_training_listens_queues_it_again(start: Start) -> None:
    job = start("imports")
    job.wait_for("imports")
    job.tell_to_end()
    status, output = job.end()
    assert (status, requeued(job)) == (75, True), output


def test_a_step_that_loses_the_signal_is_told_again(start: Start) -> None:
    job = start("0", LOSES="yes")
    status, output = job.end()
    assert status == 0, output


def test_nodes_that_do_not_join_are_counted(start: Start) -> None:
    job = start("0", MOST_JOIN="2", JOIN_SECONDS="5")
    status, output = job.end()
    assert status == 75
    assert "only 2 of 3 nodes joined Ray in 5 s" in output


def test_a_ray_that_does_not_start_is_not_waited_for(start: Start) -> None:
    job = start("0", MOST_JOIN="0", FAILS="yes")
    status, output = job.end()
    assert (status, requeued(job)) == (75, True)
    assert "Ray ended on a node before all had joined" in output


def test_another_directory_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        env={"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: no jobs/ in {tmp_path}. Fix: call sbatch in the repository's root\n"
    )


def test_the_token_stays_out_of_the_log(start: Start) -> None:
    assert "a-secret" not in start("0").end()[1]


def test_slurm_is_asked_for_whole_nodes_and_signals_the_shell_alone() -> None:
    text = SCRIPT.read_text()
    head = text.partition("\nset ")[0]
    options = dict(re.findall(r"(?m)^#SBATCH --([a-z-]+)=?(\S*)$", head))
    assert options.keys() >= {"exclusive", "requeue", "nodes", "time", "gpus-per-node"}
    assert options["signal"] == "B:TERM@300"
    assert options["open-mode"] == "append"
    # Slurm reads options up to the first command only.
    assert "#SBATCH" not in text.removeprefix(head)
