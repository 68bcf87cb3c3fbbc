"""Locks between the processes of a node; the system lets go of them if a process dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def exclusive(path: Path) -> Iterator[TextIO]:
    """Wait until nobody else holds the lock, and hold it."""
    with _waited_for(path, fcntl.LOCK_EX) as file:
        yield file


@contextmanager
def shared(path: Path) -> Iterator[TextIO]:
    """Wait until nobody holds the lock exclusively, and hold it as others may."""
    with _waited_for(path, fcntl.LOCK_SH) as file:
        yield file


def taken(file: TextIO | int) -> bool:
    """Try to hold the open file's lock exclusively; if others hold it, hold nothing."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share(file: TextIO) -> None:
    """Wait until nobody holds the open file's lock exclusively, and hold it as others may."""
    fcntl.flock(file, fcntl.LOCK_SH)


@contextmanager
def _waited_for(path: Path, kind: int) -> Iterator[TextIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield file
