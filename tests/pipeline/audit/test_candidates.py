"""Candidates on disk: written by training, one file per epoch, whole, replaced when repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.audit import candidates
from pipeline.audit.candidates import CORRECTED, DECISIONS, KEPT, Candidates
from pipeline.audit.collector import Collector
from pipeline.cluster.checkpoints import SCORE
from pipeline.training.epoch import run_epoch
from pipeline.training.worker import Worker
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.labels import UNOBSERVED
from sharding.manifest import Dataset
from tests.support.training import begun, worker_for


def training(squares: Path, storage: Path, method: str = "ll-ct", **changes: object) -> Worker:
    changes = {"candidates_per_epoch": 50, "storage": str(storage), "name": "run", **changes}
    return worker_for(squares, method, **changes)


def read(squares: Path, storage: Path) -> list[Candidates]:
    return candidates.read_run(str(storage / "run"), Dataset.open(squares).classes)


def files(storage: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((storage / "run/candidates").iterdir())}


def test_every_epoch_leaves_a_file(squares: Path, tmp_path: Path) -> None:
    # Its corrections are all among the fifty largest losses.
    worker = begun(training(squares, tmp_path, network={"backbone": "resnet18"}))
    run_epoch(worker, 1)
    run_epoch(worker, 2)
    first, second = read(squares, tmp_path)
    assert (first.epoch, second.epoch) == (1, 2)
    assert (second.method, second.labels, second.images_seen) == ("ll-ct", "first", 192)
    assert len(first) == len(second) == 50
    # 96 images of 8 classes, 3 of them observed; nothing is selected in the first epoch.
    assert (first.unobserved, first.modified) == (480, 0)
    assert set(first.decisions_N) == {KEPT}
    # delta_rel 1 percent of 32 x 8 entries, in three steps
    assert second.modified == 9
    assert np.count_nonzero(second.decisions_N == CORRECTED) == 9
    assert (np.diff(second.losses_N) <= 0).all()
    table = Dataset.open(squares).labels("train")
    rows = table.rows_of(second.image_ids_N)
    assert (table.dense(rows, 8)[np.arange(50), second.classes_N] == UNOBSERVED).all()
    artifacts = dict(reversed(call) for call in worker.run_log.calls["artifact"])
    assert artifacts == {f"candidates/{name}": content for name, content in files(tmp_path).items()}
    shown, path = worker.run_log.calls["table"][-1]
    assert path == "candidates/epoch-002.json"
    assert shown["loss"] == second.losses_N.tolist(), "as MLflow shows them"


def test_the_file_is_readable_without_us(squares: Path, tmp_path: Path) -> None:
    run_epoch(begun(training(squares, tmp_path)), 1)
    table = pq.read_table(tmp_path / "run/candidates/epoch-001.parquet")
    assert table.schema.names == candidates.SCHEMA.names
    (found,) = read(squares, tmp_path)
    row = table.slice(7, 1).to_pylist()[0]
    assert row["image_id"] == format_image_ids(found.image_ids_N)[7]
    assert row["mid"] == Dataset.open(squares).classes.mids[row["class"]]
    assert row["decision"] in DECISIONS
    assert row["loss"] == pytest.approx(-np.log1p(-np.float64(row["probability"])), rel=1e-5)


def test_an_epoch_that_goes_on_leaves_the_same_file(squares: Path, tmp_path: Path) -> None:
    paused = training(squares, tmp_path / "a", "ll-cp", checkpoint_every=2)
    run_epoch(begun(paused), 1)
    run_epoch(paused, 2, save=lambda: paused.save(str(tmp_path), {SCORE: 0.0}))
    resumed = training(squares, tmp_path / "b", "ll-cp", checkpoint_every=2)
    run_epoch(begun(resumed, tmp_path), 2)
    undisturbed, again = files(tmp_path / "a"), files(tmp_path / "b")
    assert again["epoch-002.parquet"] == undisturbed["epoch-002.parquet"]


def test_a_repeated_epoch_replaces_its_file(squares: Path, tmp_path: Path) -> None:
    run_epoch(begun(training(squares, tmp_path)), 1)
    before = files(tmp_path)
    torch.manual_seed(3)
    run_epoch(begun(training(squares, tmp_path)), 1)
    assert files(tmp_path) == before
    run_epoch(begun(training(squares, tmp_path, candidates_per_epoch=20)), 1)
    (found,) = read(squares, tmp_path)
    assert len(found) == 20


def test_zero_leaves_none(squares: Path, tmp_path: Path) -> None:
    run_epoch(begun(training(squares, tmp_path, candidates_per_epoch=0)), 1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no candidates"):
        candidates.read_run(str(tmp_path), Dataset.open(squares).classes)


def test_corrections_for_good_stay_corrected(squares: Path, tmp_path: Path) -> None:
    worker = begun(training(squares, tmp_path, "ll-cp", candidates_per_epoch=480))
    for epoch in (1, 2, 3):
        run_epoch(worker, epoch)
    *_, second, third = read(squares, tmp_path)
    entries = [
        {*zip(c.image_ids_N[at].tolist(), c.classes_N[at].tolist(), strict=True)}
        for c in (second, third)
        for at in [c.decisions_N == CORRECTED]
    ]
    assert len(entries[0]) == 9
    assert entries[0] < entries[1]


def test_complete_labels_leave_none(squares: Path) -> None:
    none = Collector(5, torch.device("cpu")).finish(
        epoch=1, method="full", labels="first", images_seen=96
    )
    classes = Dataset.open(squares).classes
    found = Candidates.from_parquet(none.to_parquet(classes), "epoch-001.parquet", classes)
    assert (len(found), found.unobserved, found.method) == (0, 0, "full")
    assert found.select(top=3).to_csv(classes).count("\n") == 1


def test_negative_numbers_are_refused() -> None:
    from pipeline.config.train import TrainConfig

    with pytest.raises(InputError, match="candidates_per_epoch is -1"):
        TrainConfig(dataset="x", candidates_per_epoch=-1)


def test_another_file_is_refused(squares: Path) -> None:
    with pytest.raises(InputError, match=r"x\.parquet: not a table of an epoch's candidates"):
        Candidates.from_parquet(b"nothing", "x.parquet", Dataset.open(squares).classes)
