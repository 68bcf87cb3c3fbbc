"""Report a training: its plan, points for MLflow on the way, a progress bar on the driver."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.cluster import tasks
from pipeline.cluster.checkpoints import SCORE
from pipeline.config.train import TrainConfig
from pipeline.data import profile
from pipeline.tables import percent
from pipeline.tracking.run_log import ProgressState, TrainingLog
from pipeline.training.prepare import VALIDATION, Prepared
from sharding.errors import here
from sharding.layout import SPLITS
from sharding.log import count
from sharding.progress import Progress, Waiting, clock, say

if TYPE_CHECKING:  # the driver, which imports this, starts Ray before torch
    from pipeline.training.loop import StepStats
    from pipeline.training.state import Rank

# Below this, ranks of one kind of machine differ by chance.
_NOTEWORTHY_SKEW = 1.2
_LOOK_SECONDS = 0.5
_NONE: Mapping[str, float] = {}
OnEpoch = Callable[[int, Mapping[str, float]], object]
MAP, MAP_OFF = "val/mAP/all", "val_no_boost/mAP/all"


class MetricsLogger:
    """Sends numbers of the training; the first rank sends for all, the others' calls do nothing."""

    def __init__(self, config: TrainConfig, rank: Rank, run_log: TrainingLog) -> None:
        self._config, self._rank, self._run_log = config, rank, run_log
        self._sender = uuid.uuid4().hex
        self._epoch, self._step, self._losses = 0, 0, 0.0

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
            "workers/images_per_second": stats.images_per_second,
            "train/lr": rate,
            "workers/wait_fraction": stats.wait_fraction,
            "workers/wait_fraction_slowest_rank": stats.worst_wait_fraction,
            "workers/forward_skew": stats.skew,
            "workers/slowest_rank": stats.slowest_rank,
        }
        if self._rank.device.type == "cuda":
            import torch

            peak = torch.cuda.max_memory_allocated(self._rank.device)
            values["workers/gpu_memory_gb"] = peak / 1e9
        points = [(key, value, images_seen) for key, value in values.items()]
        points.append(("epoch", epoch - 1 + stats.step / steps, images_seen))
        self._run_log.log(points, self._sender)
        self._run_log.epoch(epoch, {"train/loss": self._mean_loss(stats, epoch)})
        note = (
            f"loss {stats.loss:.3g}, {stats.images_per_second:.0f} image/s, "
            f"waits {stats.worst_wait_fraction:.0%} for data{_describe_skew(stats)}"
        )
        numbers = {"epoch": epoch, "step": stats.step, **values}
        self.progress(f"epoch {epoch}/{self._config.epochs}", stats.step, steps, note, numbers)

    def _mean_loss(self, stats: StepStats, epoch: int) -> float:
        """Average over the epoch so far; steps before a resumed process count as its first."""
        if epoch != self._epoch:
            self._epoch, self._step, self._losses = epoch, 0, 0.0
        self._losses += (stats.step - self._step) * stats.loss
        self._step = stats.step
        return self._losses / stats.step

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
def shown(run_log: TrainingLog, lines: EpochLines | None = None) -> Iterator[None]:
    """Show training's progress in this process (the driver) until the block ends.

    Args:
        run_log: where the workers say how far they are.
        lines: what to print when an epoch is scored; nothing without.
    """
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(run_log, lines, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(run_log: TrainingLog, lines: EpochLines | None, done: threading.Event) -> None:
    """Poll the state every `_LOOK_SECONDS`; one bar for each label."""
    with contextlib.ExitStack() as bars:
        bar: Progress | None = None
        closed = ""
        waiting = bars.enter_context(Waiting("the workers start"))

        def close() -> None:
            nonlocal bar, closed
            if bar is not None:  # of the epoch after, where validation runs on its own
                closed = bar.label
                bar = None
            bars.close()

        while not done.wait(_LOOK_SECONDS):
            if lines is not None:
                lines.show(tasks.answer(run_log.epochs(), otherwise={}), close)
            state: ProgressState | None = tasks.answer(run_log.state(), otherwise=None)
            if state is None:
                waiting.look()
                continue
            if state.label == closed and state.step == state.steps:
                continue  # it was shown
            if bar is None or bar.label != state.label:
                bars.close()
                # Steps before the first look are of another time, or of an earlier process.
                bar = bars.enter_context(
                    Progress(state.steps, state.label, "step", initial=state.step, leave=False)
                )
                bar.advance(0, state.note, state.numbers)
            elif state.step > bar.done:
                bar.advance(state.step - bar.done, state.note, state.numbers)
    if lines is not None:
        lines.show(tasks.answer(run_log.epochs(), otherwise={}))


class EpochLines:
    """Prints a line for every epoch that is scored: loss, mAP, the best so far, times.

    Args:
        epochs: of the whole run.
        best: validation mAP that checkpoints of the run have already.
        on_epoch: called with an epoch's number and values after its line.
    """

    def __init__(
        self, epochs: int, best: float = math.nan, on_epoch: OnEpoch = lambda *_: None
    ) -> None:
        self._epochs, self._best, self._on_epoch = epochs, best, on_epoch
        self._printed: set[int] = set()
        self._began = self._last = time.monotonic()

    def show(
        self,
        epochs: Mapping[int, Mapping[str, float]],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Print the lines of the epochs that are new.

        Args:
            epochs: values by number, as of `TrainingLog.epochs`.
            before: called before each line.
        """
        if not epochs:
            self._began = self._last = time.monotonic()  # the workers are not ready yet
        for number in sorted(epochs.keys() - self._printed):
            if SCORE in epochs[number]:
                before()
                self._printed.add(number)
                self._print(number, epochs[number])
                self._on_epoch(number, epochs[number])

    def _print(self, number: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        left = (now - self._began) / len(self._printed) * (self._epochs - number)
        parts = [f"loss {values['train/loss']:.3g}"] if "train/loss" in values else []
        if MAP in values:
            on, off = values[MAP], values[MAP_OFF]
            self._best = max(self._best, on) if self._best == self._best else on
            parts.append(f"mAP {percent(on)} (off {percent(off)}), best {percent(self._best)}")
        times = [clock(seconds), *([f"{clock(left)} left"] if number < self._epochs else [])]
        line = ", ".join([*parts, *times])
        numbers = {"seconds": seconds, "seconds_left": left, "best": self._best}
        say(f"epoch {number}/{self._epochs}: {line}", **{**values, **numbers})


def describe(run: Prepared) -> str:
    """Say what a run trains, on what, and where it goes on, in a few lines."""
    from pipeline.methods import complete_options

    config, dataset = run.config, run.dataset
    _, version = dataset.label_version(config.labels)
    splits = [split for split in SPLITS if split in version.splits]
    images = ", ".join(f"{version.splits[split].images:,} {split}" for split in splits)
    options = complete_options(config)
    chosen = ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)
    model, device = config.model, "GPU" if run.use_gpu else "CPU"
    rows = {
        "run": f"{here(run.directory)}: {_position(run)}",
        "dataset": f"{here(config.dataset)}, labels {config.labels}"
        + (f", confidences {config.confidences}" if config.confidences else ""),
        "images": f"{images}; {count(len(dataset.classes), 'class')}",
        "network": f"{model.backbone} at {config.data.image_size} px, from "
        f"{model.weights or 'random weights'}, {config.optimizer.precision}",
        "head": model.head_in_words,
        "method": f"{config.method}{f' ({chosen})' if chosen else ''}",
        "workers": f"{config.workers} on {device}, threads each: {run.cpus}; "
        f"{count(config.data.batch_size, 'image')} a step, {count(config.epochs, 'epoch')}",
    }
    lines = [f"{name:8} {text}" for name, text in rows.items()]
    if (delta_rel := options.get("delta_rel")) is not None:
        most = len(dataset.classes) * min(1, (config.epochs - 1) * delta_rel / 100)
        shown = f"{most:.2g}" if most < 10 else f"{most:,.0f}"
        lines.append(
            f"{config.method} takes up to {shown} entries of an image for missing labels in the "
            "last epoch"
        )
    if config.method != "full" and dataset.is_complete(config.labels):
        lines.append("every label is known: methods for missing labels find none (--method full)")
    if VALIDATION in version.splits:
        lines += profile.about_map(dataset, VALIDATION, config.labels)
    return "\n".join(lines)


def _position(run: Prepared) -> str:
    """Say where training begins."""
    meta = run.latest
    if meta is None:
        return "begins"
    if meta.step:
        return f"resuming epoch {meta.epoch + 1}, step {meta.step}"
    if meta.epoch > run.config.epochs:
        return f"trained for {meta.epoch} epochs, more than the {run.config.epochs} asked for"
    if meta.epoch == run.config.epochs:
        return f"already finished, {count(meta.epoch, 'epoch')}"
    return f"resuming after epoch {meta.epoch}"
