"""Declare what may be sent to a run in MLflow.

`pipeline.tracking.writer.RunWriter` takes it in this process. A handle of that writer as a Ray
actor (`pipeline.cluster.tasks.Detached`) does so without waiting: its methods return references.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Point = tuple[str, float, int]
"""Name, value, and images seen, which is MLflow's step."""
VALIDATED = ("val/", "val_")
"""Beginnings of the names of a validation's metrics, each with one value for the images seen."""


class RunLog(Protocol):
    """Results of a run."""

    def log(self, points: Sequence[Point], sender: str = "") -> object:
        """Send metric points."""

    def table(self, columns: Mapping[str, Sequence[Any]], path: str) -> object:
        """Send a table artifact, columns by name."""

    def artifact(self, content: bytes, path: str) -> object:
        """Send a file artifact."""

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> object:
        """Send a file artifact made of the one before it, None if there is none."""

    def tag(self, key: str, value: str, of: tuple[str, int] | None = None) -> object:
        """Set a tag of the run; one of a metric and step only if the metric has no later step."""


@dataclass(frozen=True)
class ProgressState:
    """Where training is, for a progress bar.

    Attributes:
        label: what is under way (``epoch 2/3``).
        step: steps done of it.
        steps: steps of it.
        note: how it goes, for people.
        numbers: the same for programs.
    """

    label: str
    step: int
    steps: int
    note: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


class TrainingLog(RunLog, Protocol):
    """What a training run's workers and driver say to each other, beside its results."""

    def system_metrics(self, node: str, values: Mapping[str, float]) -> object:
        """Send how busy one machine is."""

    def progress(self, state: ProgressState) -> object:
        """Say where training is."""

    def epoch(self, number: int, values: Mapping[str, float]) -> object:
        """Add to what is known of an epoch: training loss, validation metrics, score."""

    def epochs(self) -> Any:
        """Read the values of every epoch so far, by number."""

    def state(self) -> Any:
        """Read the last `ProgressState`, None before the first."""

    def request_stop(self) -> object:
        """Ask the workers to save and stop."""

    def stop_requested(self) -> Any:
        """Read whether they are asked to."""

    def flush(self, timeout: float = 60.0) -> Any:
        """Wait until everything was taken; the number of items that were not."""


def parse(line: str) -> list[Point]:
    """Parse one line of points that were kept as JSON; a truncated one has none."""
    try:
        return [(key, value, step) for key, value, step in json.loads(line)]
    except (ValueError, TypeError):
        return []
