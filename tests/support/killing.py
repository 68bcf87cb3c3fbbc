"""Kill processes by SIGKILL at a chosen system call, as a driver or a worker may die anywhere.

The k-th call that changes the file system is the last: every state a kill can leave on disk is
reached by some k, without waiting for luck.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

_CHANGES = ("writev", "write", "replace", "fsync", "unlink", "mkdir")
# One server for all that a test process forks, ranks of a process group (distributed.py) too.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("sharding.commands.shard", "sharding.commands.prepare", "sharding.commands.reshard"),
        "tests.support.training",
        *("ray.cloudpickle", "torch._dynamo", "torchvision", "timm", "nvidia.dali.fn"),
    ]
)


def run_until(event: int, function: Callable[..., Any], *arguments: Any) -> bool:
    """Run a function in a process of its own that dies at the given event.

    Returns whether it died; False means that it ended before so many events.
    """
    process = FORKS.Process(target=_run, args=(event, function, arguments))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"exit code {process.exitcode}"
    return process.exitcode == -signal.SIGKILL


def _run(event: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    remaining = event

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal remaining
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            remaining -= 1
            return original(*arguments, **options)

        return call

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    function(*arguments)
