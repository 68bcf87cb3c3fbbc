"""Ray's own manager of checkpoints removes none of a run that another driver has."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from pipeline.cluster import fence
from pipeline.cluster.checkpoints import SCORE
from pipeline.cluster.lease import Held, Holder, Lease

SNAPSHOT = "checkpoint_manager_snapshot.json"


def report(manager: CheckpointManager, directory: Path, score: float) -> None:
    directory.mkdir()
    saved = Checkpoint.from_directory(directory)
    manager.register_checkpoint(
        _TrainingReport(checkpoint=saved, metrics={SCORE: score}, validation=False)
    )


def test_the_controller_of_a_fenced_off_driver_lists_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointManager, "_write_state_to_storage", fence._WRITE)
    run = tmp_path / "run"
    run.mkdir()
    lease = Lease(str(run), Holder.of_this_process())
    cloudpickle.loads(cloudpickle.dumps(fence.Fence(lease)))  # as the controller gets it
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
