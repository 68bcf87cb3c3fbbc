from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import TrainingFailedError

from pipeline.storage import StorageFailed, storage_errors
from pipeline.training import train, train_loop
from pipeline.training.failures import Left, causes, waited_out
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
    assert waited_out(ControllerFailed(TimeoutError()), Storage(0).write)
    told = capsys.readouterr()
    assert "the storage fails (TimeoutError)" in told.out + told.err


@pytest.mark.parametrize(
    "error", [WorkersFailed(ValueError("bug")), WorkersFailed(OSError("no"), InputError("bad"))]
)
def test_other_failures_are_not_waited_for(error: BaseException) -> None:
    storage = Storage(0)
    assert not waited_out(error, storage.write)
    assert not storage.asked


def test_a_file_that_a_worker_misses_is_not_the_storages(capsys) -> None:
    storage = Storage(0)
    assert not waited_out(WorkersFailed(FileNotFoundError("/data/prior.npy")), storage.write)
    assert storage.asked == 1
    assert capsys.readouterr() == ("", "")


def test_unless_the_storage_is_gone_as_well(capsys) -> None:
    storage = Storage(2)
    assert waited_out(WorkersFailed(FileNotFoundError("shard")), storage.write, every=0)
    assert "the storage takes bytes again" in capsys.readouterr().out


def test_what_a_worker_says_storage_errors_is_believed() -> None:
    with pytest.raises(StorageFailed) as failed, storage_errors():
        raise OSError(30, "Read-only file system")
    travelled = pickle.loads(pickle.dumps(failed.value))  # from the worker to the driver
    assert "Read-only file system" in str(travelled)
    assert waited_out(WorkersFailed(ValueError("other"), travelled), Storage(0).write)


@pytest.mark.parametrize("error", [RuntimeError("Unable to set up\nSee: a page"), OSError("no")])
def test_an_upload_that_fails_is_the_storages(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.train

    class Place:
        experiment_fs_path = "/runs/a"

        def persist_current_checkpoint(self, saved: Any, name: str) -> Any:
            raise error

    context = SimpleNamespace(get_storage=Place)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    with pytest.raises(StorageFailed, match=r"^(/runs/a is not where the run began|no)$"):
        train_loop._upload(None, "checkpoint")


class TrainingFailedOfStorage(TrainingFailedError):
    controller_failure = OSError("no")


class Trainer:
    """Ray's, of which each call comes to another end."""

    def __init__(self, *ends: Any) -> None:
        self.ends = list(ends)

    def fit(self) -> Any:
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end


class Done:
    return_value = Left()


def test_a_storage_that_goes_while_the_list_is_mended_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Exception | None] = [None, OSError("gone"), None]

    def mend(directory: str) -> None:
        if answers and (answer := answers.pop(0)):
            raise answer

    monkeypatch.setattr(train.checkpoints, "mend", mend)
    trainer = Trainer(TrainingFailedOfStorage(), Done)
    assert train._fit(trainer, "/runs/a", Storage(0).write) is Done
    assert not trainer.ends


def test_a_storage_that_stays_away_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mend(directory: str) -> None:
        raise OSError("gone")

    monkeypatch.setattr(train.checkpoints, "mend", mend)
    storage = Storage(0)
    with pytest.raises(OSError, match="gone"):
        train._fit(Trainer(), "/runs/a", storage.write)
    assert storage.asked == 3
