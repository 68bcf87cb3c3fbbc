"""What a machine did is retried or worth repeating; what a program does again is not."""

from __future__ import annotations

import pickle
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from pipeline.cluster.lease import Held, Holder, Lease
from pipeline.storage import StorageFailed, storage_errors
from pipeline.training import train, train_loop
from pipeline.training.failures import (
    LoopEnd,
    TrainingEnded,
    TrainingFailed,
    TrainingHeld,
    causes,
    ending,
    storage_recovers,
)
from pipeline.training.worker import Worker
from sharding.errors import InputError
from sharding.storage.locks import ScratchFull
from tests.support.rooms import little_room

BUG = KeyError("prior")
DEATH = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
GLOO = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:545] Connection reset by peer")
NCCL = torch.distributed.DistBackendError("NCCL error: remote process exited")


def of_workers(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("worker errors", dict(enumerate(failures)))


@pytest.mark.parametrize(
    ("error", "code", "message"),
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
def test_what_ray_gave_up_on(error: Exception, code: int, message: str) -> None:
    ended = ending(error, "/runs/a")
    assert isinstance(ended, TrainingEnded)
    assert ended.exit_code == code
    assert message in str(ended)
    assert "/runs/a" in str(ended)
    assert "\n" not in str(ended)


def test_a_full_disk_of_a_node_is_worth_a_repetition() -> None:
    def save(directory: str, metrics: dict[str, float]) -> None:
        torch.save(torch.zeros(1_000_000), Path(directory) / "model.pt")  # raises a RuntimeError

    worker = cast(Worker, SimpleNamespace(saves_part=True, save=save))
    with pytest.raises(ScratchFull) as failed, little_room():
        train_loop._report(worker, {})
    ended = ending(of_workers(pickle.loads(pickle.dumps(failed.value))), "/runs/a")
    assert ended.exit_code == 75
    directory = re.escape(tempfile.gettempdir())
    assert re.match(rf"{directory}: the disk of this machine is full.*TMPDIR", str(ended))


@pytest.mark.parametrize("error", [of_workers(BUG, InputError("bad")), InputError("bad")])
def test_bad_input_is_told_as_such(error: TrainingFailedError | InputError) -> None:
    output = ending(error, "/runs/a")
    assert isinstance(output, InputError)
    assert str(output) == "bad"


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
    controller = ControllerError(middle)
    error = of_workers(other, controller)
    assert list(causes(error)) == [error, other, controller, middle, inner]


@pytest.mark.parametrize("kind", [OSError, InputError])
def test_waits_until_the_storage_takes_bytes(kind: type[Exception], capsys) -> None:
    storage = Storage(2, kind)
    error = ControllerError(ControllerError(OSError("Read-only file system")))
    assert storage_recovers(error, storage.write, every=0)
    assert storage.asked == 3
    output = capsys.readouterr()
    assert "the storage fails (Read-only file system)" in output.out + output.err


def test_gives_up_after_its_patience() -> None:
    storage = Storage(10**9)
    assert not storage_recovers(of_workers(OSError("no")), storage.write, patience=0, every=0)


def test_an_error_without_words_is_named(capsys) -> None:
    assert storage_recovers(ControllerError(TimeoutError()), Storage(0).write)
    output = capsys.readouterr()
    assert "the storage fails (TimeoutError)" in output.out + output.err


@pytest.mark.parametrize(
    "error", [of_workers(ValueError("bug")), of_workers(OSError("no"), InputError("bad"))]
)
def test_other_failures_are_not_waited_for(error: BaseException) -> None:
    storage = Storage(0)
    assert not storage_recovers(error, storage.write)
    assert not storage.asked


def test_a_file_that_a_worker_misses_is_not_the_storages(capsys) -> None:
    storage = Storage(0)
    assert not storage_recovers(of_workers(FileNotFoundError("/data/prior.npy")), storage.write)
    assert storage.asked == 1
    assert capsys.readouterr() == ("", "")


def test_unless_the_storage_is_gone_as_well(capsys) -> None:
    storage = Storage(2)
    assert storage_recovers(of_workers(FileNotFoundError("shard")), storage.write, every=0)
    assert "the storage takes bytes again" in capsys.readouterr().out


def test_what_a_worker_says_storage_errors_is_believed() -> None:
    with pytest.raises(StorageFailed) as failed, storage_errors():
        raise OSError(30, "Read-only file system")
    travelled = pickle.loads(pickle.dumps(failed.value))  # from the worker to the driver
    assert "Read-only file system" in str(travelled)
    assert storage_recovers(of_workers(ValueError("other"), travelled), Storage(0).write)


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
        train_loop._upload(lambda: None, None, "checkpoint")


def test_a_driver_that_was_fenced_off_uploads_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray.train

    done: list[str] = []

    class Place:
        experiment_fs_path = "/runs/a"

        def persist_current_checkpoint(self, saved: Any, name: str) -> Any:
            done.append(name)

    def taken() -> None:
        raise Held("process 7 trains this run now")

    context = SimpleNamespace(get_storage=Place)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    with pytest.raises(Held, match="process 7"):
        train_loop._upload(taken, None, "first")
    assert done == []
    asked = iter([lambda: None, taken])  # taken over meanwhile: Ray must not count it
    with pytest.raises(Held, match="process 7"):
        train_loop._upload(lambda: next(asked)(), None, "second")
    assert done == ["second"]


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


def run_on(storage: Storage) -> Any:
    return SimpleNamespace(directory="/runs/a", write_again=storage.write)


HELD = Lease("nowhere", Holder.of_this_process())


def test_another_drivers_run_is_not_retried() -> None:
    error = of_workers(Held("runs/a: process 7 on b trains this run now"))
    ended = ending(error, "runs/a")
    assert isinstance(ended, TrainingHeld)
    assert (ended.exit_code, str(ended)[:17]) == (75, "runs/a: process 7")


class Done:
    return_value, checkpoint = LoopEnd(), None


def test_a_storage_that_goes_while_the_snapshot_is_repaired_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Exception | None] = [None, OSError("gone"), None]

    def repair(directory: str) -> None:
        if answers and (answer := answers.pop(0)):
            raise answer

    monkeypatch.setattr(train.checkpoints, "repair", repair)
    trainer = Trainer(TrainingFailedOfStorage(), Done)
    assert train._fit(trainer, run_on(Storage(0)), HELD) is Done
    assert not trainer.ends


def test_a_storage_that_stays_away_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def repair(directory: str) -> None:
        raise OSError("gone")

    monkeypatch.setattr(train.checkpoints, "repair", repair)
    storage = Storage(0)
    with pytest.raises(TrainingFailed, match="gone"):
        train._fit(Trainer(), run_on(storage), HELD)
    assert storage.asked == 3


def test_the_handler_of_ctrl_c_that_is_replaced_is_still_rays() -> None:
    from ray.train.torch import TorchTrainer

    assert callable(TorchTrainer._register_sigint_handler)
