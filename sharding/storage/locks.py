"""Lock files between processes, and give each process a scratch directory.

The system releases a lock when its process dies. What is locked is a regular file that is open for
reading and writing: NFS shares such a lock between hosts, that of a directory only within one; and
it refuses a shared lock of a file that cannot be read, an exclusive one of what cannot be written.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from sharding.errors import InputError, MachineError
from sharding.storage.files import DiskFull, full_disk_told


class ScratchFull(MachineError):
    """Report a full disk of a node, which keeps nothing: another node, or a later job, has room."""


_LOCK = ".lock"
_SCRATCH = "scratch-"
"""Begins the names of scratch directories with a lock file; older ones, without, are left alone."""


@contextmanager
def exclusive(path: Path) -> Iterator[TextIO]:
    """Wait until nobody else holds the lock, and hold it."""
    with _open(path) as file:
        lock(file)
        yield file


@contextmanager
def shared(path: Path) -> Iterator[TextIO]:
    """Wait until nobody holds the lock exclusively, and hold it as others may."""
    with _open(path) as file:
        share(file)
        yield file


@contextmanager
def only(path: Path) -> Iterator[bool]:
    """Hold a lock whose file is removed in the end; yields False at once if another holds it."""
    while True:
        file = _open(path)
        if not try_lock(file):
            file.close()
            yield False
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # the one before has just removed it
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        file.close()


def lock(file: TextIO | int) -> None:
    """Wait until nobody else holds the open file's lock, and hold it."""
    fcntl.flock(file, fcntl.LOCK_EX)


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


def private_directory(name: str = "") -> Path:
    """Make a directory for temporary files that only this user reaches (mode 0700).

    Args:
        name: tells it from others of this user.

    Raises:
        InputError: a link, or somebody else's directory, is in its place.
    """
    path = Path(
        tempfile.gettempdir(), "-".join(filter(None, ("openimages", str(os.getuid()), name)))
    )
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise InputError(
            "is not a directory of this user's own",
            file=path,
            fix="remove it, or set TMPDIR to another place",
        )
    path.chmod(0o700)
    return path


@functools.cache
def scratch_directory() -> Path:
    """Make this process's own directory on the node's disk; later calls return the same.

    It is removed with the process; that of a killed one when the next process makes its own, on
    whichever host where they share the disk.
    """
    parent = private_directory()
    with exclusive(parent / _LOCK):
        for other in parent.glob(f"{_SCRATCH}*"):
            _remove_unless_alive(other)
        directory = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
        file = _open(directory / _LOCK)
        try_lock(file)
        try_lock(os.open(directory, os.O_RDONLY))  # never closed; older versions look at this one
    atexit.register(_remove, directory, file)  # which keeps the file open until then
    return directory


@contextmanager
def scratch_space(
    directory: Path | None = None, otherwise: str = "set TMPDIR to another place"
) -> Iterator[None]:
    """Name the directory of a node's own disk where that is full.

    Args:
        directory: that the block writes to; by default the one for temporary files.
        otherwise: what helps beside room in it.

    Raises:
        ScratchFull: there is no room.
    """
    directory = Path(tempfile.gettempdir()) if directory is None else directory
    try:
        with full_disk_told(directory):
            yield
    except DiskFull as error:
        raise ScratchFull(
            f"the disk of this machine is full: {error.problem}",
            file=directory,
            fix=f"free some space there, or {otherwise}; then repeat the command",
        ) from error


@contextmanager
def temporary_directory(prefix: str = "") -> Iterator[Path]:
    """Make a directory on the node's disk for a block; remove it with what is in it.

    Raises:
        ScratchFull: there is no room for what the block writes.
    """
    with ExitStack() as stack:
        with scratch_space():
            made = tempfile.TemporaryDirectory(prefix=prefix, dir=scratch_directory())
            folder = Path(stack.enter_context(made))
        with scratch_space():  # inside: the disk is tried out while it is full
            yield folder


def _open(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+")


def _remove_unless_alive(directory: Path) -> None:
    with _open(directory / _LOCK) as file:  # made anew where its process is just removing it
        if not try_lock(file):
            return
    shutil.rmtree(directory, ignore_errors=True)


def _remove(directory: Path, lock_file: TextIO) -> None:
    lock_file.close()  # NFS keeps a file that is open, and its directory
    shutil.rmtree(directory, ignore_errors=True)
