"""What a machine did is retried or worth repeating; what a program does again is not."""

from __future__ import annotations

import json
import pickle
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from ray.exceptions import ActorDiedError
from ray.train import (
    ControllerError,
    FailureConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from pipeline.cluster import tasks
from pipeline.cluster.lease import Held, Holder, Lease
from pipeline.cluster.placement import Node
from pipeline.cluster.preemption import StopReason
from pipeline.cluster.scaling import Request, Room
from pipeline.storage import StorageFailed, storage_errors
from pipeline.training import train, train_loop
from pipeline.training.failures import (
    RETRIES,
    LoopEnd,
    PatientTrainer,
    TrainingEnded,
    TrainingFailed,
    TrainingHeld,
    TrainingInterrupted,
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


def run_on(storage: Storage, directory: str = "/runs/a") -> Any:
    config = SimpleNamespace(async_validation=True)
    return SimpleNamespace(directory=directory, write_again=storage.write, config=config)


HELD = Lease("nowhere", Holder.of_this_process())


def test_another_drivers_run_is_not_retried() -> None:
    error = of_workers(Held("runs/a: process 7 on b trains this run now"))
    ended = ending(error, "runs/a")
    assert isinstance(ended, TrainingHeld)
    assert (ended.exit_code, str(ended)[:17]) == (75, "runs/a: process 7")


class Done:
    return_value, checkpoint = LoopEnd(), None


@pytest.mark.parametrize("reason", [StopReason.NODE_DRAINED, StopReason.MORE_WORKERS])
def test_training_goes_on_at_once_after_nodes_went_or_came(
    tmp_path: Path, reason: StopReason
) -> None:
    moved = SimpleNamespace(return_value=LoopEnd(reason=reason), checkpoint=None)
    trainer = Trainer(moved, Done)
    assert train._fit(trainer, run_on(Storage(0), str(tmp_path)), HELD) is Done
    assert not trainer.ends


@pytest.mark.parametrize("asynchronous", [True, False])
def test_before_ray_reads_its_snapshot_what_has_no_score_is_queued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asynchronous: bool
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(train.checkpoints, "repair", done.append)
    monkeypatch.setattr(
        train.checkpoints, "queue_validations", lambda run, latest: done.append((run, latest))
    )
    run = run_on(Storage(0), str(tmp_path))
    run.config.async_validation = asynchronous
    train._fit(Trainer(Done), run, HELD)
    assert done == [str(tmp_path), (str(tmp_path), asynchronous)]


def test_a_sigterm_while_validations_are_waited_for_ends_the_run_as_any(tmp_path: Path) -> None:
    def leave(pending: list[Any]) -> Any:
        state = {"checkpoint_results": [], "latest_checkpoint_result": None}
        state |= {f"{how}_validation_checkpoint_dir_names": [] for how in ("failed", "timed_out")}
        state |= {"pending_training_results": pending, "pending_validation_specs": pending}
        (tmp_path / "checkpoint_manager_snapshot.json").write_text(json.dumps(state))
        return Done

    run = run_on(Storage(0), str(tmp_path))
    with pytest.raises(TrainingInterrupted, match="SIGTERM; repeat the command"):
        train._fit(SimpleNamespace(fit=lambda: leave([{}])), run, HELD)
    assert train._fit(SimpleNamespace(fit=lambda: leave([])), run, HELD) is Done


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


NOT_STARTED = [
    ControllerError(WorkerGroupStartupTimeoutError(4)),
    ControllerError(WorkerGroupStartupFailedError("a host died")),
]


class ElasticTrainer(Trainer):
    """Remembers with how many workers each call was to start."""

    def __init__(self, *ends: Any) -> None:
        super().__init__(*ends)
        self.scaling_config = ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 2})
        self.asked: list[Any] = []

    def fit(self) -> Any:
        self.asked.append(self.scaling_config.num_workers)
        return super().fit()


def patient(trainer: Trainer, *free: int, cpus: int = 8, minutes: float = 10) -> Any:
    """Wait for room on a node of so many CPUs, of which ever others are free."""
    left = [[Node(each, 0)] for each in free]
    look: dict[str, Any] = {
        "offers": lambda: [Node(cpus, 0)],
        "free": lambda: left.pop(0) if len(left) > 1 else left[0],
        "pause": lambda _: None,
    }
    room = Room(Request(1, 2, 0), 4, minutes, **look)
    run_log: Any = SimpleNamespace(stop_requested=lambda: None)
    return PatientTrainer(trainer, run_on(Storage(0)), run_log, room)


@pytest.fixture
def asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    answers = [False]
    monkeypatch.setattr(tasks, "answer", lambda _, otherwise: answers[0])
    return answers


def test_workers_that_ray_could_not_start_are_asked_for_again_as_many_as_fit_then(
    asked_to_stop: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = ElasticTrainer(*NOT_STARTED, Done)
    assert patient(trainer, 8, *[4] * 5, 8).fit() is Done
    assert trainer.asked == [(1, 4), (1, 2), (1, 4)]
    assert trainer.scaling_config.resources_per_worker == {"CPU": 2}
    assert capsys.readouterr().out.count("could not start the workers: looking for room") == 2


def test_where_nobody_else_uses_nodes_an_autoscaler_is_asked_for_all(
    asked_to_stop: list[bool],
) -> None:
    trainer = ElasticTrainer(Done)
    assert patient(trainer, 4, cpus=5).fit() is Done
    assert trainer.asked == [(1, 4)]


def test_ray_is_not_asked_for_ever_and_not_again_for_other_reasons(
    asked_to_stop: list[bool],
) -> None:
    with pytest.raises(ControllerError) as failed:
        patient(ElasticTrainer(*NOT_STARTED * 4), 8, minutes=10).fit()
    assert isinstance(ending(failed.value, "/runs/a"), TrainingFailed)
    for error in (of_workers(BUG), of_workers(DEATH), TrainingFailedOfStorage()):
        trainer = ElasticTrainer(error, Done)
        with pytest.raises(type(error)):
            patient(trainer, 8).fit()
        assert len(trainer.asked) == 1


def test_sigterm_ends_a_wait_for_room(asked_to_stop: list[bool]) -> None:
    asked_to_stop[0] = True
    with pytest.raises(TrainingInterrupted):
        patient(ElasticTrainer(Done), 1).fit()


def test_ray_hands_a_failure_over_before_it_is_the_third_minute_without_a_word() -> None:
    config = FailureConfig(**RETRIES)
    assert (config.max_failures, config.controller_failure_limit) == (3, 2)


def test_the_handler_of_ctrl_c_that_is_replaced_is_still_rays() -> None:
    from ray.train.torch import TorchTrainer

    assert callable(TorchTrainer._register_sigint_handler)
