"""What a killed process left on the node is removed by the next, and nothing of a live one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from sharding.storage import locks
print(locks.scratch_directory(), flush=True)
(locks.scratch_directory() / "checkpoint").mkdir()
sys.stdin.read()
"""


def started(tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def ended(process: subprocess.Popen[str]) -> None:
    process.communicate("")


def test_the_dead_are_swept_and_the_living_are_not(tmp_path: Path) -> None:
    living, its = started(tmp_path)
    killed, left = started(tmp_path)
    killed.kill()
    ended(killed)
    assert left.is_dir()
    third, own = started(tmp_path)
    assert its.is_dir()
    assert not left.exists()
    assert own.is_dir()
    for process in (third, living):
        ended(process)
    assert not own.exists()
    assert not its.exists()
