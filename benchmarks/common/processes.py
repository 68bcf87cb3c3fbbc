"""Watch the memory of a command and of all processes that it starts, by what they are for."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_SECONDS = 0.2
_ROLES = (
    ("RunWriter", "tracker"),
    ("TrainController", "controller"),
    ("RayTrainWorker", "worker"),
    ("ray::IDLE", ""),
    ("default_worker.py", ""),
    ("ray::", "task"),
    ("raylet", "Ray's own"),
    ("gcs_server", "Ray's own"),
    ("ray/", "Ray's own"),
)
"""What a command line contains, and the role of its process; idle ones are told by what they do."""


@dataclass(kw_only=True)
class Peak:
    """Most memory of one process, in bytes.

    Attributes:
        role: what the process is for.
        resident: counted by the kernel, shared pages and files in memory included.
        anonymous: its own, as sampled: neither libraries nor Ray's shared memory.
        shared: in shared memory, as sampled.
    """

    role: str = ""
    resident: int = 0
    anonymous: int = 0
    shared: int = 0


class Watch:
    """Samples the processes of a command while the block runs.

    Args:
        pid: of the command.
        on_sample: called after every sample with the resident bytes of each role's largest process.
    """

    def __init__(
        self, pid: int, on_sample: Callable[[Mapping[str, int]], object] = lambda _: None
    ) -> None:
        self._root, self._on_sample = psutil.Process(pid), on_sample
        self.peaks: dict[int, Peak] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def by_role(self) -> dict[str, dict[str, int]]:
        """Give the largest values of each role, and how many processes had it."""
        roles: dict[str, dict[str, int]] = {}
        for peak in self.peaks.values():
            values = asdict(peak)
            role = values.pop("role") or "idle"
            largest = roles.setdefault(role, {**dict.fromkeys(values, 0), "processes": 0})
            largest["processes"] += 1
            for name, value in values.items():
                largest[name] = max(largest[name], value)
        return roles

    def _run(self) -> None:
        while not self._done.wait(_SECONDS):
            with contextlib.suppress(psutil.Error):
                now: dict[str, int] = {}
                for process in (self._root, *self._root.children(recursive=True)):
                    with contextlib.suppress(psutil.Error, OSError):
                        role, resident = self._look(process)
                        now[role] = max(now.get(role, 0), resident)
                self._on_sample(now)

    def _look(self, process: psutil.Process) -> tuple[str, int]:
        memory = status(process.pid)
        peak = self.peaks.setdefault(process.pid, Peak())
        if process.pid == self._root.pid:
            peak.role = "driver"
        elif peak.role in ("", "other"):  # a process that has just begun may be called otherwise
            command = " ".join(process.cmdline())
            peak.role = next((role for word, role in _ROLES if word in command), "other")
        peak.resident = max(peak.resident, memory.get("VmHWM", 0))
        peak.anonymous = max(peak.anonymous, memory.get("RssAnon", 0))
        peak.shared = max(peak.shared, memory.get("RssShmem", 0))
        return peak.role or "idle", memory.get("VmRSS", 0)


def status(pid: int) -> dict[str, int]:
    """Read the memory of a process in bytes, by the names of Linux (none of one that has ended)."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    pairs = (line.split(":", 1) for line in text.splitlines() if line.endswith(" kB"))
    return {name: 1024 * int(value.split()[0]) for name, value in pairs}


def run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    on_sample: Callable[[Mapping[str, int]], object] = lambda _: None,
) -> tuple[dict[str, dict[str, int]], float]:
    """Run a command to its end; return the peaks by role, and its seconds.

    Raises:
        SystemExit: it failed.
    """
    begun = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=log.parent)
        with Watch(process.pid, on_sample) as watch:
            process.wait()
    if process.returncode:
        raise SystemExit(f"{command[1]} ended with {process.returncode}: see {log}")
    return watch.by_role(), time.monotonic() - begun
