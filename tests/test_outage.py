from __future__ import annotations

import pytest

from pipeline.outage import causes, waited_out
from sharding.errors import InputError


class WorkersFailed(Exception):
    """As Ray Train tells of workers."""

    def __init__(self, *failures: BaseException) -> None:
        super().__init__("workers failed")
        self.worker_failures = dict(enumerate(failures))


class ControllerFailed(Exception):
    """As Ray Train tells of its controller."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__("controller failed")
        self.controller_failure = failure


class Storage:
    """Takes bytes at last."""

    def __init__(self, refusals: int, kind: type[Exception] = OSError) -> None:
        self.refusals, self.kind, self.asked = refusals, kind, 0

    def write(self) -> None:
        self.asked += 1
        if self.asked <= self.refusals:
            raise self.kind("no")


def test_causes_of_workers_controllers_and_chains() -> None:
    inner, middle, other = OSError("inner"), RuntimeError("middle"), ValueError("other")
    middle.__cause__ = inner
    controller = ControllerFailed(middle)
    error = WorkersFailed(other, controller)
    assert list(causes(error)) == [error, other, controller, middle, inner]


@pytest.mark.parametrize("kind", [OSError, InputError])
def test_waits_until_the_storage_takes_bytes(kind: type[Exception], capsys) -> None:
    storage = Storage(2, kind)
    error = ControllerFailed(ControllerFailed(OSError("Read-only file system")))
    assert waited_out(error, storage.write, every=0)
    assert storage.asked == 3
    told = capsys.readouterr()
    assert "the storage fails (Read-only file system)" in told.out + told.err


def test_gives_up_after_its_patience() -> None:
    storage = Storage(10**9)
    assert not waited_out(WorkersFailed(OSError("no")), storage.write, patience=0, every=0)


def test_an_error_without_words_is_named(capsys) -> None:
    assert waited_out(WorkersFailed(TimeoutError()), Storage(0).write)
    told = capsys.readouterr()
    assert "the storage fails (TimeoutError)" in told.out + told.err


@pytest.mark.parametrize(
    "error", [WorkersFailed(ValueError("bug")), WorkersFailed(OSError("no"), InputError("bad"))]
)
def test_other_failures_are_not_waited_for(error: BaseException) -> None:
    storage = Storage(0)
    assert not waited_out(error, storage.write)
    assert not storage.asked
