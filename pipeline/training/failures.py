"""How a training ends that does not come to its last epoch, and the exit code that says so.

A scheduler repeats a command that ended with `os.EX_TEMPFAIL`: so does what a machine did, not what
a program does again.

A storage that takes nothing for a while: told from other failures, and waited for.

Ray starts workers again whose checkpoint could not be stored, but only so often, and ends a run
whose own snapshot could not be. Neither is a reason to lose a night: what is stored is whole, and
training goes on from it as soon as there is a storage again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from pipeline import storage
from pipeline.storage import StorageFailed
from sharding.errors import InputError
from sharding.log import info


@dataclass(frozen=True, kw_only=True)
class Left:
    """Why the workers left before the end, if they did; what they return to the driver.

    Attributes:
        notice: `pipeline.cluster.preemption.STOPPED` or `PREEMPTED`, after all had saved.
        not_finite: what was not, and where; nothing was saved of it.
    """

    notice: str | None = None
    not_finite: str | None = None


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
    """Workers or hosts died more often than Ray was told to start them again."""

    exit_code = os.EX_TEMPFAIL


class TrainingInterrupted(TrainingEnded):
    """SIGTERM ended training after a checkpoint of its last step."""

    exit_code = os.EX_TEMPFAIL


def of_failure(error: BaseException, directory: str) -> TrainingEnded | InputError:
    """What to tell of a failure that Ray gave up on: bad input, if that is what it was.

    Args:
        error: Ray's, or what the storage said to the driver.
        directory: the run's.
    """
    found = list(causes(error))
    for cause in found:
        if isinstance(cause, InputError):
            return cause
    failures = [*getattr(error, "worker_failures", {}).values()]
    if not any(_is_a_death(each) for each in failures):
        for each in failures:
            if not _is_of_others(each):
                return TrainingBroken(
                    f"{type(each).__name__}: {last_line(each)} (the traceback is above); "
                    f"what is finished is in {directory}"
                )
    reason = last_line(min(failures, key=_is_of_others, default=found[-1]))
    return TrainingFailed(f"{reason}; repeat the command to go on from {directory}")


def _is_a_death(error: BaseException) -> bool:
    """Whether Ray says that a worker died, was lost, or does not answer."""
    return type(error).__module__.partition(".")[0] == "ray"


def _is_of_others(error: BaseException) -> bool:
    """Whether it tells of another worker that is gone, or of the storage."""
    connections = isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)
    return connections or isinstance(error, storage.StorageFailed)


def causes(error: BaseException) -> Iterator[BaseException]:
    """What is behind an error of Ray Train, from the outside in: of every worker that failed."""
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None:
            continue
        yield cause
        waiting += getattr(cause, "worker_failures", {}).values()
        waiting.append(getattr(cause, "controller_failure", None))
        waiting.append(getattr(cause, "cause", None) or cause.__cause__)


def waited_out(
    error: BaseException,
    write: Callable[[], object],
    *,
    patience: float = 600.0,
    every: float = 2.0,
) -> bool:
    """Wait until the storage takes bytes again, if that it did not was why training ended.

    Args:
        error: Ray's.
        write: writes a small file to the storage.
        patience: seconds.
        every: seconds between attempts.

    Returns:
        Whether it is worth going on.
    """
    found = list(causes(error))
    refusal = next((each for each in found if isinstance(each, OSError)), None)
    if refusal is None or any(isinstance(each, InputError) for each in found):
        return False
    # Of a worker it may be any file that is not there: the storage has to show that it was it.
    of_worker = bool(getattr(error, "worker_failures", ()))
    named = any(isinstance(each, StorageFailed) for each in found)
    if of_worker and not named and _takes(write):
        return False
    info(f"the storage fails ({last_line(refusal)}); waiting {patience:g} s for it", "WARNING")
    deadline = time.monotonic() + patience
    while not _takes(write):
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    info("the storage takes bytes again: going on from the last checkpoint", "WARNING")
    return True


def last_line(error: BaseException) -> str:
    """The last line of what an error says, in short; its name where it says nothing."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__


def _takes(write: Callable[[], object]) -> bool:
    try:
        write()
    except (OSError, InputError):
        return False
    return True
