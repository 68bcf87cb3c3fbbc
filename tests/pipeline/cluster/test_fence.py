"""Ray's managers remove nothing of another driver's run, and wait for no validation in vain."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.train import Checkpoint, CheckpointConfig, ValidationConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.checkpoint.validation_manager import ValidationManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from pipeline.cluster import fence
from pipeline.cluster.checkpoints import SCORE
from pipeline.cluster.lease import Held, Holder, Lease
from pipeline.cluster.preemption import StopReason
from pipeline.training.failures import LoopEnd

SNAPSHOT = "checkpoint_manager_snapshot.json"


@pytest.fixture(autouse=True)
def rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back in the end what a fence wraps in this process."""
    monkeypatch.setattr(CheckpointManager, "_write_state_to_storage", fence._WRITE)
    monkeypatch.setattr(ValidationManager, "_kick_off_validations", fence._BEGIN)
    monkeypatch.setattr(ValidationManager, "before_controller_shutdown", fence._FINISH)


def fence_of(run: Path) -> Any:
    """A fence as the controller gets it."""
    run.mkdir()
    lease = Lease(str(run), Holder.of_this_process())
    made = fence.Fence(lease, SimpleNamespace(stop_requested=None))
    return cloudpickle.loads(cloudpickle.dumps(made))


def report(
    manager: CheckpointManager, directory: Path, score: float, validation: bool = False
) -> _TrainingReport:
    directory.mkdir()
    saved = Checkpoint.from_directory(directory)
    made = _TrainingReport(checkpoint=saved, metrics={SCORE: score}, validation=validation)
    manager.register_checkpoint(made)
    return made


def test_the_controller_of_a_fenced_off_driver_lists_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "Poll", lambda ask: lambda: False)
    run = tmp_path / "run"
    fence_of(run)
    keep = CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=SCORE)

    async def control() -> None:
        manager = CheckpointManager(keep, StorageContext(tmp_path, "run"))
        report(manager, run / "first", 1.0)
        report(manager, run / "second", 2.0)
        assert not (run / "first").exists(), "what it does while it may"
        before = (run / SNAPSHOT).read_bytes()
        taker = dataclasses.asdict(Holder.of_this_process())
        (run / "lease.json").write_text(json.dumps(taker))
        with pytest.raises(Held, match="nothing was removed"):
            report(manager, run / "third", 3.0)
        assert (run / "second").exists()
        assert (run / SNAPSHOT).read_bytes() == before

    level = logging.getLogger("ray.train").level
    try:
        asyncio.run(control())
    finally:
        logging.getLogger("ray.train").setLevel(level)


class Validations(ValidationManager):
    """Ray's, of which one validation runs as long as it is let."""

    is_done, cancelled = False, False

    def _poll_validations(self) -> int:
        return 0 if self.is_done else 1

    def _kick_off_validations(self) -> int:
        return 0

    def before_controller_abort(self) -> None:
        self.cancelled = True


def controlled(run: Path, act: Any) -> Validations:
    """A manager of one pending validation, shut down after ``act`` was called with it."""
    storage = StorageContext(run.parent, run.name)

    async def control() -> Validations:
        manager = CheckpointManager(CheckpointConfig(), storage)
        validations = Validations(manager, ValidationConfig(dict))
        validations.after_report(report(manager, run / "first", -2.0, validation=True), [])
        await asyncio.sleep(0)  # Ray's note of what it lists
        act(validations)
        await asyncio.wait_for(validations.before_controller_shutdown(), 60)
        return validations

    return asyncio.run(control())


def pending(run: Path) -> list[str]:
    """Checkpoints that the next controller would validate."""

    async def control() -> list[str]:
        manager = CheckpointManager(CheckpointConfig(), StorageContext(run.parent, run.name))
        queue = ValidationManager(manager, ValidationConfig(dict))._training_report_queue
        return [Path(each.checkpoint.path).name for each in queue]

    return asyncio.run(control())


@pytest.mark.parametrize("how", [*StopReason, "sigterm meanwhile"])
def test_a_training_that_stops_waits_for_no_validation_and_the_next_start_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: StopReason | str
) -> None:
    asked = isinstance(how, str)
    monkeypatch.setattr(fence, "Poll", lambda ask: lambda: asked)
    run = tmp_path / "run"
    made = fence_of(run)

    def end(validations: Validations) -> None:
        reason = None if isinstance(how, str) else how
        status = SimpleNamespace(return_value=LoopEnd(reason=reason))
        made.after_worker_group_poll_status(SimpleNamespace(worker_statuses={0: status}))

    assert controlled(run, end).cancelled
    assert pending(run) == ["first"]


def test_a_training_that_is_done_waits_for_its_validations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "Poll", lambda ask: lambda: False)
    run = tmp_path / "run"
    made = fence_of(run)

    def end(validations: Validations) -> None:
        status = SimpleNamespace(return_value=LoopEnd())
        made.after_worker_group_poll_status(SimpleNamespace(worker_statuses={0: status}))
        asyncio.get_running_loop().call_later(0.2, setattr, validations, "is_done", True)

    assert not controlled(run, end).cancelled


def test_validations_that_are_still_to_come_do_not_take_the_workers_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[ValidationManager] = []
    monkeypatch.setattr(fence, "_BEGIN", lambda manager: begun.append(manager) or 1)
    run = tmp_path / "run"
    made = fence_of(run)

    async def control() -> None:
        manager = CheckpointManager(CheckpointConfig(), StorageContext(tmp_path, "run"))
        validations = ValidationManager(manager, ValidationConfig(dict))
        assert validations._kick_off_validations() == 0
        made.after_worker_group_start(None)
        assert validations._kick_off_validations() == 1
        assert begun == [validations]

    asyncio.run(control())
