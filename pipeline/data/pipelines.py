"""Hold a DALI pipeline from one epoch to the next, so that none waits for another's start.

Training images come in another order every epoch, which a reader takes when it is built: the next
epoch's pipeline is built in another thread while the last steps run. A validation's order never
changes: its pipeline goes back to the start.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.config.sections import Augmentation
from pipeline.data import dali

NEXT_EPOCH = "next-epoch"
"""How the threads' names begin that build pipelines ahead."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What a pipeline is built of: arguments of `dali.batches`."""

    reading: dali.Reading
    size: int
    augmentation: Augmentation
    device_id: int | None
    threads: int
    hardware_share: float

    def open(self, position: bytes | None = None, *, decodes: bool = False) -> Any:
        """Build the pipeline, to go on from a position if any; ``decodes`` as of `batches`."""
        return dali.batches(
            self.reading,
            self.size,
            self.augmentation,
            device_id=self.device_id,
            threads=self.threads,
            hardware_share=self.hardware_share,
            position=position,
            decodes=decodes,
        )


class Pipelines:
    """Opens pipelines, and holds at most one for later."""

    def __init__(self) -> None:
        self._held: tuple[Graph, Future[Any]] | None = None

    def open(self, graph: Graph, position: bytes | None = None) -> Any:
        """Hand out the pipeline that is held if it is of this graph, else build one.

        Raises:
            RuntimeError: it cannot be built, now or ahead.
        """
        held, self._held = self._held, None
        if held is None or position is not None or held[0] != graph:
            return graph.open(position)
        return held[1].result()

    def build_ahead(self, graph: Graph) -> None:
        """Build a pipeline in another thread, its first batch too; `open` raises its error."""
        if self._held is not None and self._held[0] == graph:
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix=NEXT_EPOCH)
        self._held = graph, pool.submit(_built, graph)
        pool.shutdown(wait=False)

    def keep(self, graph: Graph, pipeline: Any) -> None:
        """Hold a pipeline of one rank alone that was read to its end; the next reads it again."""
        pipeline.reset()
        self._held = graph, Future()
        self._held[1].set_result(pipeline)


def _built(graph: Graph) -> Any:
    """Build a pipeline with its first batch ready, but for images that cannot be decoded.

    These are an error where the batch is taken, as in a pipeline that was not built ahead.
    """
    with dali.on_device(graph.device_id):
        with contextlib.suppress(RuntimeError):
            return graph.open(decodes=True)
        return graph.open()
