"""An ordered `map` over worker processes that end when they should, also after a kill."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2


@contextlib.contextmanager
def ordered_map(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` whose calls run in ``workers`` processes; with 1, in this one.

    Functions and arguments must be picklable. On an exception what has not begun is dropped.
    """
    if workers == 1:
        yield map
        return
    # Spawned, because a fork of a process with threads (torch, Ray) can hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start() -> None:
    cv2.setNumThreads(1)  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
