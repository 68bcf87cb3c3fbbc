"""Report a training on the way: points for MLflow, a progress bar on the driver."""

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
from pipeline.training.state import Rank
from sharding.progress import Progress

# Below this, ranks of one kind of machine differ by chance.
_NOTEWORTHY_SKEW = 1.2
_NONE: Mapping[str, float] = {}


class MetricsLogger:
    """Sends numbers of the training; the first rank sends for all, the others' calls do nothing."""

    def __init__(self, config: TrainConfig, rank: Rank, run_log: TrainingLog) -> None:
        self._config, self._rank, self._run_log = config, rank, run_log
        self._sender = uuid.uuid4().hex

    def step(
        self, stats: StepStats, *, epoch: int, steps: int, rate: float, images_seen: int
    ) -> None:
        """Send numbers of the steps since the last call.

        Args:
            stats: over all ranks.
            epoch, steps: the epoch, counted from 1, and its steps.
            rate: the backbone's learning rate.
            images_seen: since the run began; MLflow's step.
        """
        if not self._rank.is_first:
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
        if self._rank.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._rank.device)
            values["train/gpu_memory_gb"] = peak / 1e9
        points = [(key, value, images_seen) for key, value in values.items()]
        self._run_log.log(points, self._sender)
        note = (
            f"loss {stats.loss:.4f}, {stats.images_per_second:.0f} image/s, "
            f"{stats.worst_wait_fraction:.0%} waiting for data{_describe_skew(stats)}"
        )
        numbers = {"epoch": epoch, "step": stats.step, **values}
        self.progress(f"epoch {epoch}/{self._config.epochs}", stats.step, steps, note, numbers)

    def progress(
        self,
        label: str,
        step: int,
        steps: int,
        note: str = "",
        numbers: Mapping[str, float] = _NONE,
    ) -> None:
        """Send where training is; arguments as of `ProgressState`."""
        if self._rank.is_first:
            self._run_log.progress(ProgressState(label, step, steps, note, numbers))

    def trace(self, trace: bytes) -> None:
        """Write a profiler's trace into the run's directory and send it to MLflow."""
        path = "profile/trace.json.gz"
        run = storage.join(self._config.storage, self._config.run_name)
        with storage.storage_errors():
            storage.write_bytes(storage.join(run, path), trace)
        self._run_log.artifact(trace, path)


def _describe_skew(stats: StepStats) -> str:
    if stats.skew < _NOTEWORTHY_SKEW:
        return ""
    return f", rank {stats.slowest_rank} {stats.skew - 1:.0%} slower than the mean"


@contextlib.contextmanager
def shown(run_log: TrainingLog) -> Iterator[None]:
    """Show training's progress in this process (the driver) until the block ends."""
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(run_log, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(run_log: TrainingLog, done: threading.Event) -> None:
    """Poll the state twice a second; one bar for each label."""
    with contextlib.ExitStack() as bars:
        bar: Progress | None = None
        while not done.wait(0.5):
            state: ProgressState | None = tasks.answer(run_log.state(), otherwise=None)
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
