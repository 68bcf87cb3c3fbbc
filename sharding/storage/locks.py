"""Locks between the processes of a node; the system lets go of them if a process dies.

A directory of this process on the node's own disk: it goes with the process.

That of a killed one goes when the next process of the node makes its own.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def exclusive(path: Path) -> Iterator[TextIO]:
    """Wait until nobody else holds the lock, and hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def try_lock(file: TextIO | int) -> bool:
    """Try to hold the open file's lock exclusively; if others hold it, hold nothing."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@functools.cache
def scratch_directory() -> Path:
    """The same for all callers in this process."""
    parent = Path(tempfile.gettempdir(), f"openimages-{os.getuid()}")
    with exclusive(parent / ".lock"):
        for other in parent.iterdir():
            if other.is_dir():
                _remove_unless_alive(other)
        own = Path(tempfile.mkdtemp(dir=parent))
        try_lock(os.open(own, os.O_RDONLY))  # never closed
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _remove_unless_alive(other: Path) -> None:
    try:
        descriptor = os.open(other, os.O_RDONLY)
    except FileNotFoundError:  # its process has just ended
        return
    try:
        if try_lock(descriptor):
            shutil.rmtree(other, ignore_errors=True)
    finally:
        os.close(descriptor)
