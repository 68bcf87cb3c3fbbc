"""The driver's view of training: a bar or a line per epoch, read from the tracker actor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from pipeline import cluster
from sharding.progress import Progress


@contextlib.contextmanager
def shown(tracker: Any, epochs: int) -> Iterator[None]:
    """Show training's progress in this process until the block ends."""
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(tracker, epochs, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(tracker: Any, epochs: int, done: threading.Event) -> None:
    bar: Progress | None = None
    epoch = 0
    while not done.wait(0.5):
        state = cluster.wait_for(tracker.state())[0]
        if not state:
            continue
        if state["epoch"] != epoch:
            if bar is not None:
                bar.__exit__(None, None, None)
            epoch = state["epoch"]
            bar = Progress(state["steps"], f"epoch {epoch}/{epochs}", unit="step")
        if bar is not None:
            bar.advance(state["step"] - bar.done, note=state["note"])
    if bar is not None:
        bar.__exit__(None, None, None)
