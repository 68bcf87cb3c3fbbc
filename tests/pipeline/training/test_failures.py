"""Exit codes: what a machine did is worth repeating, what a program does again is not."""

from __future__ import annotations

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from pipeline.storage import StorageFailed
from pipeline.training.failures import TrainingEnded, of_failure
from sharding.errors import InputError

BUG = KeyError("prior")
DEATH = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
GLOO = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:545] Connection reset by peer")
NCCL = torch.distributed.DistBackendError("NCCL error: remote process exited")


def of_workers(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("worker errors", dict(enumerate(failures)))


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (of_workers(BUG), 1, "KeyError: 'prior' (the traceback is above)"),
        (of_workers(GLOO, BUG), 1, "KeyError: 'prior'"),
        (of_workers(NCCL, BUG), 1, "KeyError: 'prior'"),
        (of_workers(torch.OutOfMemoryError("CUDA out of memory")), 1, "CUDA out of memory"),
        (of_workers(ValueError()), 1, "ValueError: ValueError"),
        (of_workers(FileNotFoundError("/data/prior.npy")), 1, "/data/prior.npy"),
        (of_workers(BUG, DEATH), 75, "repeat the command"),
        (of_workers(GLOO, DEATH), 75, "The actor died unexpectedly"),
        (of_workers(GLOO, GLOO), 75, "Connection reset by peer; repeat the command"),
        (of_workers(NCCL), 75, "remote process exited; repeat the command"),
        (of_workers(StorageFailed("Read-only file system")), 75, "Read-only file system; repeat"),
        (ControllerError(RuntimeError("\n")), 75, "RuntimeError; repeat the command"),
        (ControllerError(OSError("a\nno room\n")), 75, "no room; repeat the command"),
        (OSError(5, "Input/output error"), 75, "Input/output error; repeat the command"),
    ],
)
def test_what_ray_gave_up_on(error: Exception, code: int, told: str) -> None:
    ended = of_failure(error, "/runs/a")
    assert isinstance(ended, TrainingEnded)
    assert ended.exit_code == code
    assert told in str(ended)
    assert "/runs/a" in str(ended)
    assert "\n" not in str(ended)


@pytest.mark.parametrize("error", [of_workers(BUG, InputError("bad")), InputError("bad")])
def test_bad_input_is_told_as_such(error: TrainingFailedError | InputError) -> None:
    told = of_failure(error, "/runs/a")
    assert isinstance(told, InputError)
    assert str(told) == "bad"
