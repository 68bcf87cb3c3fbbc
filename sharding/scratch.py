"""A directory of this process on the node's own disk: it goes with the process.

That of a killed one goes when the next process of the node makes its own.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

from sharding import locking


@functools.cache
def directory() -> Path:
    """The same for all callers in this process."""
    parent = Path(tempfile.gettempdir(), f"openimages-{os.getuid()}")
    with locking.exclusive(parent / ".lock"):
        for other in parent.iterdir():
            if other.is_dir():
                _remove_unless_alive(other)
        own = Path(tempfile.mkdtemp(dir=parent))
        locking.taken(os.open(own, os.O_RDONLY))  # never closed
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _remove_unless_alive(other: Path) -> None:
    try:
        descriptor = os.open(other, os.O_RDONLY)
    except FileNotFoundError:  # its process has just ended
        return
    try:
        if locking.taken(descriptor):
            shutil.rmtree(other, ignore_errors=True)
    finally:
        os.close(descriptor)
