"""Decide whether a training that failed is retried, and how it ends otherwise.

=====================  ======================  =================================
cause                  retried                 ends as (exit code of the job)
=====================  ======================  =================================
`Cause.INPUT`          by Ray, three times     that `InputError` (2; a `MachineError`,
                                               such as a full disk of a node, 75)
`Cause.STORAGE`        when it takes bytes     `TrainingFailed` (75)
                       again, three times
`Cause.DEATH`, `PEER`  by Ray, three times     `TrainingFailed` (75)
`Cause.CODE`           by Ray, three times     `TrainingBroken` (1)
another driver's       no                      `TrainingHeld` (75)
not finite             no                      `TrainingStopped` (3)
SIGTERM                no                      `TrainingInterrupted` (75)
node to be drained     at once, on the others
more workers fit       at once, with them
no room for workers    by Ray for 3 minutes,   `NotFree` or
                       then when there is      `TrainingFailed` (75)
=====================  ======================  =================================

A scheduler repeats a command that ended with `os.EX_TEMPFAIL` (75): a machine's failure is worth
repeating, a program's is not. Ray starts workers again whose checkpoint could not be stored, but
only so often, and ends a run whose own snapshot could not be. Neither is a reason to lose a night:
what is stored is whole, and training continues from it as soon as the storage takes bytes again.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.cluster import checkpoints, scaling, tasks
from pipeline.cluster.lease import Held
from pipeline.cluster.preemption import StopReason
from pipeline.storage import StorageFailed
from pipeline.tracking.run_log import TrainingLog
from sharding.errors import InputError
from sharding.log import info

PASSING = (OSError, MemoryError, RuntimeError)
"""What may pass: a storage that does not answer, memory that others have, CUDA's errors."""

if TYPE_CHECKING:
    from pipeline.training.prepare import Prepared

RETRIES = {"max_failures": 3, "controller_failure_limit": scaling.RAYS_MINUTES - 1}
"""Of Ray: of workers that failed; and of such as could not be started, which take a minute each."""

# Ray's, of workers for which there was no room within a minute, or that died while they started.
_NOT_STARTED = ("WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError")
# Of gloo's errors, and of a group that ended between a look at it and its use.
_PEER_GONE = re.compile(r"gloo/transport|process group has not been initialized")


class TrainingEnded(RuntimeError):
    """Training ended early.

    Attributes:
        exit_code: of the job.
    """

    exit_code = 1


class TrainingBroken(TrainingEnded):
    """The training code raises an exception, however often it is started again."""


class TrainingStopped(TrainingEnded):
    """Training ended by its own decision (a loss that is not finite)."""

    exit_code = 3


class TrainingFailed(TrainingEnded):
    """Workers or hosts died more often than Ray starts them again, or the storage is gone."""

    exit_code = os.EX_TEMPFAIL


class TrainingHeld(TrainingEnded):
    """Another process trains the run, or has taken it over (`pipeline.cluster.lease`)."""

    exit_code = os.EX_TEMPFAIL


class TrainingInterrupted(TrainingEnded):
    """SIGTERM ended training after a checkpoint of its last step."""

    exit_code = os.EX_TEMPFAIL


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Raise what ends a job where another process trains the run."""
    try:
        yield
    except Held as error:
        raise TrainingHeld(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class LoopEnd:
    """Why the workers' loop ended before the last epoch, if it did; what they return to the driver.

    Attributes:
        reason: they were asked to stop; after all had saved.
        not_finite: what was not, and where; nothing was saved of it.
    """

    reason: StopReason | None = None
    not_finite: str | None = None

    def raise_if_early(self, directory: str, last_checkpoint: str) -> None:
        """Raise what ends the run ``directory``, with its last checkpoint in words."""
        if self.not_finite:
            raise TrainingStopped(f"{self.not_finite}; {last_checkpoint}")
        if self.reason is StopReason.SIGTERM:
            raise TrainingInterrupted(f"SIGTERM; repeat the command to go on from {directory}")


class Cause(enum.Enum):
    """What an exception of a worker is due to.

    A user's input; the run's storage; the death of the worker or its host; a connection to another
    worker that is gone; else the training code.
    """

    INPUT = enum.auto()
    STORAGE = enum.auto()
    DEATH = enum.auto()
    PEER = enum.auto()
    CODE = enum.auto()

    @classmethod
    def of(cls, error: BaseException) -> Cause:
        """Classify an exception without its causes."""
        if isinstance(error, InputError):
            return cls.INPUT
        if isinstance(error, StorageFailed):
            return cls.STORAGE
        if type(error).__module__.partition(".")[0] == "ray":  # a worker died or does not answer
            return cls.DEATH
        import torch

        if isinstance(error, torch.distributed.DistError) or _PEER_GONE.search(str(error)):
            return cls.PEER
        return cls.CODE


class PatientTrainer:
    """Ray's trainer of a run on a cluster that others use, too: waits for room for its workers.

    Args:
        trainer: Ray's.
        run: what it trains.
        run_log: knows whether this process is to end.
        room: the run's by default.
    """

    def __init__(
        self, trainer: Any, run: Prepared, run_log: TrainingLog, room: scaling.Room | None = None
    ) -> None:
        self._trainer, self._directory, self._run_log = trainer, run.directory, run_log
        self._room = room or scaling.Room(
            scaling.Request(run.config.worker_range[0], run.cpus, int(run.use_gpu)),
            run.config.worker_range[1],
            run.config.wait_for_workers,
        )

    def fit(self) -> Any:
        """Return Ray's result; fit again where Ray could not start the workers.

        Raises:
            NotFree: there was no room within the time that the run may wait.
            TrainingInterrupted: SIGTERM came meanwhile.
        """
        while True:
            reached = checkpoints.latest(self._directory)
            self._room.offer(self._trainer, self._room.find(reached, self._check))
            try:
                return self._trainer.fit()
            except Exception as error:
                if not (_is_not_started(error) and self._room.missed()):
                    raise
            info("Ray could not start the workers: looking for room again", "WARNING")

    def _check(self) -> None:
        if tasks.answer(self._run_log.stop_requested(), otherwise=False):
            LoopEnd(reason=StopReason.SIGTERM).raise_if_early(self._directory, "")


def _is_not_started(error: BaseException) -> bool:
    """Tell whether Ray gave up on workers that it could not start."""
    return any(type(each).__name__ in _NOT_STARTED for each in causes(error))


def ending(error: BaseException, directory: str) -> TrainingEnded | InputError:
    """Choose the exception that ends a run whose failure is not retried.

    Args:
        error: Ray's, or the storage's on the driver.
        directory: the run's.
    """
    chain = list(causes(error))
    for each in chain:
        if isinstance(each, InputError):
            return each
        if isinstance(each, Held):
            return TrainingHeld(str(each))
    failures = [(Cause.of(each), each) for each in getattr(error, "worker_failures", {}).values()]
    if Cause.DEATH not in (cause for cause, _ in failures):
        for cause, failure in failures:
            if cause is Cause.CODE:
                return TrainingBroken(
                    f"{type(failure).__name__}: {_last_line(failure)} (the traceback is above); "
                    f"what is finished is in {directory}"
                )
    own = (failure for cause, failure in failures if cause in (Cause.DEATH, Cause.CODE))
    reason = next(own, failures[0][1] if failures else chain[-1])
    return TrainingFailed(f"{_last_line(reason)}; repeat the command to go on from {directory}")


def storage_recovers(
    error: BaseException,
    test_write: Callable[[], object],
    *,
    patience: float = 600.0,
    every: float = 2.0,
) -> bool:
    """Wait until the storage takes bytes again, if that it did not was why training ended.

    Args:
        error: Ray's, or the storage's on the driver.
        test_write: writes a small file to the storage.
        patience: seconds.
        every: seconds between attempts.

    Returns:
        Whether to retry.
    """
    chain = list(causes(error))
    refusal = next((each for each in chain if isinstance(each, OSError)), None)
    if refusal is None or any(isinstance(each, InputError) for each in chain):
        return False
    # A worker's OSError may concern any file; blame the storage only if a test write fails too.
    from_worker = bool(getattr(error, "worker_failures", ()))
    is_certain = any(isinstance(each, StorageFailed) for each in chain)
    if from_worker and not is_certain and _succeeds(test_write):
        return False
    info(f"the storage fails ({_last_line(refusal)}); waiting {patience:g} s for it", "WARNING")
    deadline = time.monotonic() + patience
    while not _succeeds(test_write):
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    info("the storage takes bytes again: going on from the last checkpoint", "WARNING")
    return True


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what is behind an error of Ray Train, outermost first, of every worker that failed."""
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None:
            continue
        yield cause
        waiting += getattr(cause, "worker_failures", {}).values()
        waiting.append(getattr(cause, "controller_failure", None))
        waiting.append(getattr(cause, "cause", None) or cause.__cause__)


def _last_line(error: BaseException) -> str:
    """Shorten an error's message to its last line; its name if it has none."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__


def _succeeds(test_write: Callable[[], object]) -> bool:
    try:
        test_write()
    except (OSError, InputError):
        return False
    return True
