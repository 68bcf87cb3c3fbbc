"""Lock files between the processes of a node, and give each process a scratch directory.

The system releases a lock when its process dies.
"""

from __future__ import annotations

import atexit
import contextlib
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
    with _open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


@contextmanager
def shared(path: Path) -> Iterator[TextIO]:
    """Wait until nobody holds the lock exclusively, and hold it as others may."""
    with _open(path) as file:
        share(file)
        yield file


def try_lock(file: TextIO | int) -> bool:
    """Try to hold the open file's lock exclusively; if others hold it, hold nothing."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share(file: TextIO) -> None:
    """Wait until nobody holds the open file's lock exclusively, and hold it as others may."""
    fcntl.flock(file, fcntl.LOCK_SH)


@functools.cache
def scratch_directory() -> Path:
    """Make this process's own directory on the node's disk; later calls return the same.

    It is removed with the process; that of a killed one when the next process makes its own.
    """
    parent = Path(tempfile.gettempdir(), f"openimages-{os.getuid()}")
    with exclusive(parent / ".lock"):
        for other in parent.iterdir():
            if other.is_dir():
                _remove_unless_alive(other)
        directory = Path(tempfile.mkdtemp(dir=parent))
        try_lock(os.open(directory, os.O_RDONLY))  # never closed
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _open(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a")


def _remove_unless_alive(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # its process has just ended
        descriptor = os.open(directory, os.O_RDONLY)
        if try_lock(descriptor):
            shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)
