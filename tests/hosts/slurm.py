"""Run a batch script on the hosts as Slurm does: `sbatch`, `srun` and `scontrol` for one job."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.hosts.hosts import REPOSITORY, SHARED
from tests.hosts.story import Cluster

_SUBMIT = f"{SHARED}/submit"
_SSH = "ssh -i ~/ray_bootstrap_key.pem -o StrictHostKeyChecking=no -o LogLevel=ERROR"
_PROGRAMS = {
    # Run the script on the first node, in a session of its own, again each time it was queued.
    "sbatch": """#!/bin/bash
        export SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST=head,worker1
        export SLURM_SUBMIT_DIR=$PWD SLURM_RESTART_COUNT=0
        while rm -f requeued; do
            setsid bash "$@" >> job.log 2>&1 &
            echo $! > batch.pid
            wait $!
            status=$?
            [ -e requeued ] || { cat job.log; exit $status; }
            SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1))
        done
    """,
    # A job that is queued again is terminated: all of its processes get SIGTERM.
    "scontrol": """#!/bin/bash
        case $1 in
            show) tr , '\\n' <<< "$3" ;;
            requeue) touch requeued; kill -TERM -- "-$(cat batch.pid)" ;;
        esac
    """,
    # One task on each of the step's nodes, in the caller's directory and environment; a signal
    # goes to all tasks, and the step ends when they have.
    "srun": f"""#!/usr/bin/env python
import os, shlex, signal, subprocess, sys
count = next(index for index, word in enumerate(sys.argv[1:]) if not word.startswith("--")) + 1
options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:count])
nodes = options.get("nodelist", os.environ["SLURM_JOB_NODELIST"]).split(",")
nodes = [node for node in nodes if node != options.get("exclude")]
assert len(nodes) == int(options["nodes"]) == int(options["ntasks"]), nodes
environment = shlex.join(f"{{name}}={{value}}" for name, value in os.environ.items())
step = f"/tmp/step-{{os.getpid()}}"
task = f"echo $$ > {{step}}; cd {{os.getcwd()}}; exec env -i {{environment}} "
def on(node, line):
    return subprocess.Popen([*map(os.path.expanduser, "{_SSH}".split()), node, line])
def forward(number, frame):
    [each.wait() for each in [on(node, f"kill -{{number}} $(cat {{step}})") for node in nodes]]
tasks = [on(node, task + shlex.join(sys.argv[count:])) for node in nodes]
signal.signal(signal.SIGTERM, forward)
sys.exit(max(task.wait() for task in tasks))
""",
}


class Job:
    """One job of `deploy/slurm/train.sbatch` on two hosts, submitted on the first.

    Args:
        cluster: whose Ray is down.
        options: of the training.
    """

    def __init__(self, cluster: Cluster, options: str) -> None:
        self._cluster = cluster
        self.directory = cluster.shared / Path(_SUBMIT).name
        for part in ("jobs", "deploy"):
            shutil.copytree(REPOSITORY / part, self.directory / part)
        programs = self.directory / "bin"
        programs.mkdir()
        for name, text in _PROGRAMS.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.process: subprocess.Popen[str] = cluster.head.start(
            f"cd {_SUBMIT}; export PATH={_SUBMIT}/bin:$PATH; unset RAY_AUTH_MODE;"
            f" exec bin/sbatch deploy/slurm/train.sbatch {options}"
        )

    @property
    def log(self) -> str:
        """What the job has written, over all its starts."""
        return (self.directory / "job.log").read_text()

    def reach_the_time_limit(self) -> None:
        """Signal the batch shell alone, as `--signal=B:TERM@300` does."""
        self._cluster.head.run(f"kill -TERM $(cat {_SUBMIT}/batch.pid)")

    def end(self) -> int:
        """Wait until the job is not queued again; return its exit status."""
        output, _ = self.process.communicate(timeout=600)
        print(output)
        return self.process.returncode
