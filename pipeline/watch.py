"""The driver's view of training: a bar or lines per epoch, read from the tracker actor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from pipeline import cluster
from sharding.progress import Progress


@contextlib.contextmanager
def shown(tracker: Any) -> Iterator[None]:
    """Show training's progress in this process until the block ends."""
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(tracker, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(tracker: Any, done: threading.Event) -> None:
    with contextlib.ExitStack() as bars:
        bar: Progress | None = None
        while not done.wait(0.5):
            state = cluster.answer(tracker.state(), otherwise={})
            if not state:
                continue
            if bar is None or bar.label != state["label"]:
                bars.close()
                # What was done before the first look took a time of its own, or an earlier process.
                made = Progress(state["steps"], state["label"], "step", initial=state["step"])
                bar = bars.enter_context(made)
                bar.advance(0, state["note"], state["numbers"])
            elif state["step"] > bar.done:
                bar.advance(state["step"] - bar.done, state["note"], state["numbers"])
