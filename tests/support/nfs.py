"""Locks as NFS has them: a directory's count on no other host, a file's by how it was opened."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Any


def flock_of(flock: Callable[[Any, int], None] = fcntl.flock) -> Callable[[Any, int], None]:
    """Wrap a `fcntl.flock` so that it answers as if every caller were on a host of its own."""

    def on_nfs(file: Any, operation: int) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        needed = os.O_RDONLY if operation & fcntl.LOCK_SH else os.O_WRONLY
        if mode not in (needed, os.O_RDWR):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    return on_nfs
