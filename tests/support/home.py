"""Run job scripts the way `ray submit` does: each alone, in an empty HOME."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

# A machine that does other work takes many times as long; what hangs takes for ever.
_TIMEOUT_SECONDS = 900
SCRIPTS = sorted((Path(__file__).parents[2] / "jobs").glob("*.py"))


class Home:
    """An empty HOME with nothing but copies of the job scripts, and what the jobs write there.

    Args:
        directory: the HOME.
        address: of the Ray cluster that the jobs join.
    """

    def __init__(self, directory: Path, address: str = "local") -> None:
        self.directory, self._address = directory, address
        for script in SCRIPTS:
            shutil.copy(script, directory)

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a job: nothing of the test's own, no GPU, no Ray but the address's."""
        token = Path.home() / ".ray/auth_token"  # by which another Ray knows who may join
        return {
            **({} if self._address == "local" else {"RAY_AUTH_TOKEN_PATH": str(token)}),
            "RAY_AUTH_MODE": "token",
            "HOME": str(self.directory),
            "PATH": os.environ["PATH"],
            "RAY_ADDRESS": self._address,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, script: str, *arguments: str, status: int = 0) -> str:
        """Run one script to its end; return all it printed."""
        return self._run([sys.executable, str(self.directory / script), *arguments], status)

    def program(self, *arguments: str) -> str:
        """Run a job as `openimages-boostlu` does; return all it printed."""
        return self._run([sys.executable, "-m", "pipeline", *arguments], 0)

    def shell(self, command: str) -> str:
        """Run a command that a job proposed; return all it printed."""
        return self._run(["sh", "-c", command], 0)

    def _run(self, command: list[str], status: int) -> str:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, output[-4000:]
        return output
