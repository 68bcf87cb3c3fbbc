"""How a training ends that does not come to its last epoch, and the exit code that says so.

A scheduler repeats a command that ended with `os.EX_TEMPFAIL`: so does what a machine did, not what
a program does again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from pipeline import outage
from sharding.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Left:
    """Why the workers left before the end, if they did; what they return to the driver.

    Attributes:
        notice: `pipeline.notice.STOPPED` or `PREEMPTED`, after all had saved.
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
    found = list(outage.causes(error))
    for cause in found:
        if isinstance(cause, InputError):
            return cause
    failures = [*getattr(error, "worker_failures", {}).values()]
    if not any(_is_a_death(each) for each in failures):
        for each in failures:
            if not _is_of_others(each):
                return TrainingBroken(
                    f"{type(each).__name__}: {outage.last_line(each)} (the traceback is above); "
                    f"what is finished is in {directory}"
                )
    reason = outage.last_line(min(failures, key=_is_of_others, default=found[-1]))
    return TrainingFailed(f"{reason}; repeat the command to go on from {directory}")


def _is_a_death(error: BaseException) -> bool:
    """Whether Ray says that a worker died, was lost, or does not answer."""
    return type(error).__module__.partition(".")[0] == "ray"


def _is_of_others(error: BaseException) -> bool:
    """Whether it tells of another worker that is gone, or of the storage."""
    connections = isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)
    return connections or isinstance(error, outage.StorageFailed)
