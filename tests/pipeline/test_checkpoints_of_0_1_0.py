"""Checkpoints of release 0.1.0: their networks compute what they did, their trainings go on.

`tests/data/README.md` says how they were made; `expected.json` is what 0.1.0 made of them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.config.train import TrainConfig
from pipeline.inference.predictor import Predictor
from pipeline.models import checkpoint
from pipeline.training.epoch import run_epoch
from pipeline.training.worker import Worker
from sharding.manifest import Dataset
from tests.support.release import unpack
from tests.support.training import begun, worker_of

METHODS = [name for name in methods.names() if name not in ("full", "vlpl")]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = unpack("checkpoints_0_1_0", tmp_path_factory.mktemp("release"))
    return unpack("datasets_0_1_0", folder)


@pytest.fixture(scope="module")
def expected(release: Path) -> dict[str, Any]:
    return json.loads((release / "expected.json").read_text())


@pytest.fixture(scope="module")
def middle(release: Path) -> Path:
    """The run's latest checkpoint: within its second epoch."""
    (rank,) = (release / "runs/first").glob("checkpoint_*/rank-0.pt")
    return rank.parent


def pixels() -> np.ndarray:
    """Three made-up images, uint8 (3, 32, 32, 3)."""
    i = np.arange(3 * 32 * 32 * 3, dtype=np.int64)
    return ((i * i * 7 + i * 13) % 251).astype(np.uint8).reshape(3, 32, 32, 3)


def worker_for(config: TrainConfig, dataset: Path) -> Worker:
    return worker_of(dataclasses.replace(config, dataset=str(dataset)))


def corrections_of(worker: Worker) -> dict[str, list[int]]:
    """Classes that LL-Cp turned positive, by image."""
    ids_N, classes_N = worker.method.corrections()
    classes: dict[str, list[int]] = {}
    for image_id, k in zip(ids_N.numpy().view(np.uint64), classes_N.tolist(), strict=True):
        classes.setdefault(f"{image_id:016x}", []).append(k)
    return classes


def test_a_network_gives_the_same_logits(release: Path, expected: dict[str, Any]) -> None:
    for name, logits_BK in expected["logits"].items():
        directory = release / "runs/first" / name
        checkpoint.read_meta(directory).check_classes(
            Dataset.open(release / "keep").classes, directory
        )
        predictor = Predictor(*checkpoint.load_model(directory))
        assert predictor.image_size == 32
        assert predictor.scores(pixels()) == pytest.approx(np.array(logits_BK), abs=1e-5)


def test_training_goes_on_within_its_epoch(
    release: Path, expected: dict[str, Any], middle: Path, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the run's files go
    config = checkpoint.read_meta(middle).train_config
    worker = begun(worker_for(config, release / "keep"), middle)
    assert (worker.epoch, worker.images_seen) == (1, 23)
    run_epoch(worker, 2)
    assert worker.images_seen == expected["images_seen"]
    points = {key: value for points, *_ in worker.run_log.calls["log"] for key, value, _ in points}
    assert points["train/loss"] == pytest.approx(expected["loss"]["26"], abs=1e-3)
    metrics = worker.validate()
    assert {k: v for k, v in metrics.items() if v == v} == pytest.approx(expected["metrics"])
    assert corrections_of(worker) == expected["corrections"]


# Those that 0.1.0 does not have are left out.
@pytest.mark.parametrize("name", sorted({*METHODS} - {"hill", "splc", "gr"}))
def test_the_state_of_every_method_is_read_and_written_as_it_was(
    release: Path, name: str, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = torch.load(release / "methods.pt", weights_only=True)[name]
    worker = begun(worker_for(TrainConfig.from_dict(record["config"]), release / "keep"))
    network = worker.state.model.state_dict().items()
    shapes = {key: list(value.shape) for key, value in network if not key.startswith("backbone.")}
    assert shapes == record["shapes"]
    assert sorted(worker.step.state_dict()) == record["step"]
    worker.method.begin_epoch(3)
    worker.method.load_state_dict(record["state"])
    worker.method.load_pending_state(record["pending"])
    assert_same(worker.method.state_dict(), record["state"])
    assert_same(worker.method.pending_state(), record["pending"])


def assert_same(new: Any, old: Any) -> None:
    assert type(new) is type(old)
    if isinstance(old, dict):
        assert new.keys() == old.keys()
        for key in old:
            assert_same(new[key], old[key])
    elif isinstance(old, (list, tuple)):
        assert len(new) == len(old)
        for one, other in zip(new, old, strict=True):
            assert_same(one, other)
    elif torch.is_tensor(old):
        assert new.dtype == old.dtype
        assert torch.equal(new.nan_to_num(-1.0), old.nan_to_num(-1.0))
    else:
        assert new == old
