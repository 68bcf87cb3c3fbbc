"""What a training says on the way: points in MLflow, and where it is for the terminal.

The driver's view of training: a bar or lines per epoch, read from the tracker actor.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Mapping

import torch

from pipeline import storage
from pipeline.cluster import tasks
from pipeline.config.train import TrainConfig
from pipeline.tracking.run_log import ProgressState, TrainingLog
from pipeline.training.loop import StepStats
from sharding.progress import Progress

# Below this, ranks of one kind of machine differ by chance.
_NOTEWORTHY = 1.2


class MetricsLogger:
    """The first rank speaks for all; the others' calls do nothing.

    Args:
        config: of the run.
        rank: of this process.
        tracker: of the run.
        device: whose memory is reported, if it is a GPU.
    """

    def __init__(
        self, config: TrainConfig, rank: int, tracker: TrainingLog, device: torch.device
    ) -> None:
        self._config, self._first, self._tracker = config, rank == 0, tracker
        self._device = device
        self._name = uuid.uuid4().hex

    def step(
        self, stats: StepStats, *, epoch: int, steps: int, rate: float, images_seen: int
    ) -> None:
        """Numbers of the steps since the last call.

        Args:
            stats: over all ranks.
            epoch: counted from 1.
            steps: of the epoch.
            rate: the backbone's learning rate.
            images_seen: since the run began; MLflow's step.
        """
        if not self._first:
            return
        values = {
            "train/loss": stats.loss,
            "train/modified_fraction": stats.modified_fraction,
            "train/images_per_second": stats.images_per_second,
            "train/lr": rate,
            "data/wait_fraction": stats.wait_fraction,
            "data/wait_fraction_slowest_rank": stats.worst_wait_fraction,
            "train/forward_skew": stats.skew,
            "train/slowest_rank": stats.slowest_rank,
        }
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            values["train/gpu_memory_gb"] = peak / 1e9
        self._tracker.log([(key, value, images_seen) for key, value in values.items()], self._name)
        self.progress(
            f"epoch {epoch}/{self._config.epochs}",
            stats.step,
            steps,
            f"loss {stats.loss:.4f}, {stats.images_per_second:.0f} image/s, "
            f"{stats.worst_wait_fraction:.0%} waiting for data{_told_of_skew(stats)}",
            {"epoch": epoch, "step": stats.step, **values},
        )

    def progress(
        self,
        label: str,
        step: int,
        steps: int,
        note: str = "",
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Where training is; ``note`` for people and ``numbers`` for programs say how it goes."""
        if self._first:
            self._tracker.progress(
                ProgressState(label=label, step=step, steps=steps, note=note, numbers=numbers or {})
            )

    def trace(self, trace: bytes) -> None:
        """A profiler's trace, for the run's directory and for MLflow."""
        path = "profile/trace.json.gz"
        run = storage.join(self._config.storage, self._config.run_name)
        with storage.storage_errors():
            storage.write_bytes(storage.join(run, path), trace)
        self._tracker.artifact(trace, path)


def _told_of_skew(stats: StepStats) -> str:
    if stats.skew < _NOTEWORTHY:
        return ""
    return f", rank {stats.slowest_rank} {stats.skew - 1:.0%} slower than the mean"


@contextlib.contextmanager
def shown(tracker: TrainingLog) -> Iterator[None]:
    """Show training's progress in this process until the block ends."""
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(tracker, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(tracker: TrainingLog, done: threading.Event) -> None:
    with contextlib.ExitStack() as bars:
        bar: Progress | None = None
        while not done.wait(0.5):
            state: ProgressState | None = tasks.answer(tracker.state(), otherwise=None)
            if state is None:
                continue
            if bar is None or bar.label != state.label:
                bars.close()
                # Steps before the first look are of another time, or of an earlier process.
                bar = bars.enter_context(
                    Progress(state.steps, state.label, "step", initial=state.step)
                )
                bar.advance(0, state.note, state.numbers)
            elif state.step > bar.done:
                bar.advance(state.step - bar.done, state.note, state.numbers)
