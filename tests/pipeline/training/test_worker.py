"""One rank without Ray: every method trains, validates, is saved and goes on where it stopped."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import methods
from pipeline.cluster.checkpoints import SCORE, UNSCORED
from pipeline.config.sections import DataConfig, ModelConfig, OptimizerConfig
from pipeline.config.train import TrainConfig
from pipeline.models import checkpoint
from pipeline.training.loop import LeftEarly
from pipeline.training.worker import Worker
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset, Manifest

EPOCHS = 3
OPTIONS = {
    "epr": ("expected_num_pos=2.0",),
    "role": ("expected_num_pos=2.0",),
    "role-li": ("expected_num_pos=2.0",),
    "em-apl": ("warmup_epochs=1", f"total_epochs={EPOCHS}"),
    **dict.fromkeys(("ll-r", "ll-ct", "ll-cp"), ("delta_rel=1.0",)),
}


class Recorder:
    """A tracker that remembers what it is told."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Any]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: self.calls[name].append(arguments or named)


def worker_for(squares: Path, method: str, batch: int = 32, **changes: Any) -> Worker:
    changes = {"candidates_per_epoch": 0, **changes}  # they would go to the working directory
    config = TrainConfig(
        dataset=str(squares),
        method=method,
        method_options=OPTIONS.get(method, ()),
        model=ModelConfig(backbone="resnet18"),
        data=DataConfig(image_size=32, batch_size=batch),
        optimizer=OptimizerConfig(learning_rate=1e-3, epochs=EPOCHS),
        **changes,
    )
    return Worker(
        config=config,
        dataset=Dataset.open(squares),
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        threads=1,
        tracker=Recorder(),
        run_id="run",
    )


def begin(worker: Worker, latest: Path | None = None) -> Worker:
    worker.begin(worker.model, None if latest is None else str(latest))
    return worker


@pytest.mark.parametrize("method", [name for name in methods.names() if name != "full"])
def test_every_method_trains_and_goes_on_where_it_stopped(
    squares: Path, tmp_path: Path, method: str
) -> None:
    undisturbed = begin(worker_for(squares, method))
    for epoch in (1, 2):
        undisturbed.train(epoch)
    undisturbed.save(str(tmp_path), {SCORE: 0.0})
    undisturbed.train(EPOCHS)

    resumed = begin(worker_for(squares, method), tmp_path)
    assert (resumed.epoch, resumed.images_seen) == (2, 192)
    resumed.train(EPOCHS)
    ours, theirs = resumed.model.state_dict(), undisturbed.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("method", ["ll-cp", "p-asl", "cnn-rnn", "role-li", "imcl", "em-apl"])
def test_it_goes_on_within_an_epoch(squares: Path, tmp_path: Path, method: str) -> None:
    undisturbed = begin(worker_for(squares, method, checkpoint_every=2))
    undisturbed.train(1)
    undisturbed.train(2, on_pause=lambda: undisturbed.save(str(tmp_path), {SCORE: 0.0}))
    assert checkpoint.read_meta(tmp_path).step == 2

    resumed = begin(worker_for(squares, method, checkpoint_every=2), tmp_path)
    assert (resumed.epoch, resumed.images_seen) == (1, 96 + 64)
    resumed.train(2)
    assert resumed.images_seen == 192
    for worker in (undisturbed, resumed):
        worker.train(EPOCHS)
    ours, theirs = resumed.model.state_dict(), undisturbed.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def curve_of(*workers: Worker) -> list[tuple[str, int, float]]:
    """What MLflow has in the end of trainings one after another; times differ always."""
    points = [
        point for worker in workers for some, *_ in worker.tracker.calls["log"] for point in some
    ]
    timeless = ("train/loss", "train/lr", "train/modified_fraction")
    found = {(key, step): value for key, value, step in reversed(points) if key in timeless}
    return sorted((key, step, value) for (key, step), value in found.items())


@pytest.mark.parametrize("leave_at", [6, 7])
def test_pauses_and_notices_leave_the_curve_as_it_is(
    squares: Path, tmp_path: Path, leave_at: int
) -> None:
    """24 steps, statistics of every second one."""
    undisturbed = begin(worker_for(squares, "ll-r", batch=4))
    undisturbed.train(1)

    left = begin(worker_for(squares, "ll-r", batch=4, checkpoint_every=3))
    noticed = iter([False] * (leave_at - 1) + [True])
    with pytest.raises(LeftEarly):
        left.train(
            1,
            on_pause=lambda: left.save(str(tmp_path), {SCORE: 0.0}),
            leaving=lambda: next(noticed),
        )
    assert checkpoint.read_meta(tmp_path).images_seen == leave_at * 4
    resumed = begin(worker_for(squares, "ll-r", batch=4, checkpoint_every=3), tmp_path)
    assert resumed.images_seen == leave_at * 4
    resumed.train(1)
    assert curve_of(left, resumed) == curve_of(undisturbed)
    assert [step for key, step, _ in curve_of(left) if key == "train/loss"] == list(
        range(8, leave_at * 4 + 1, 8)
    )
    rates = [
        value
        for some, *_ in resumed.tracker.calls["log"]
        for key, value, _ in some
        if key == "data/wait_fraction"
    ]
    assert all(0 <= rate <= 1 for rate in rates)


def test_another_number_of_workers_begins_the_epoch_again(
    squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = begin(worker_for(squares, "ll-cp", checkpoint_every=2))
    first.train(1, on_pause=lambda: first.save(str(tmp_path), {SCORE: 0.0}))
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "world_size": 3}))

    second = begin(worker_for(squares, "ll-cp", checkpoint_every=2), tmp_path)
    assert "epoch 1 was left at step 2 by 3 workers; 1 begin it again" in caplog.text
    assert (second.epoch, second.images_seen) == (0, 0)
    second.train(1)
    assert second.images_seen == 96


def without_a_tar(squares: Path, tmp_path: Path) -> Path:
    """The dataset less its second training tar, as before it was extended."""
    less = shutil.copytree(squares, tmp_path / "dataset")
    manifest = Manifest.read(less)
    shards = tuple(s for s in manifest.shards if s.path != "images/train-000001.tar")
    dataclasses.replace(manifest, shards=shards).write(less)
    return less


def test_other_training_images_begin_the_epoch_again(
    squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, saved = without_a_tar(squares, tmp_path), tmp_path / "saved"
    saved.mkdir()
    first = begin(worker_for(dataset, "an", checkpoint_every=1))
    first.train(1, on_pause=lambda: first.save(str(saved), {SCORE: 0.0}))
    assert checkpoint.read_meta(saved).step == 2
    shutil.copy(squares / "dataset.json", dataset)

    second = begin(worker_for(dataset, "an"), saved)
    assert "epoch 1 was left at step 2 with other training images" in caplog.text
    second.train(1)
    assert second.images_seen == 96


def test_other_training_images_are_told_between_epochs(
    squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, saved = without_a_tar(squares, tmp_path), tmp_path / "saved"
    saved.mkdir()
    first = begin(worker_for(dataset, "an"))
    first.train(1)
    first.save(str(saved), {SCORE: 0.0})
    shutil.copy(squares / "dataset.json", dataset)

    second = begin(worker_for(dataset, "an"), saved)
    assert "training images are not those of epoch 1" in caplog.text
    second.train(2)
    assert second.images_seen == 67 + 96
    second.save(str(saved), {SCORE: 0.0})
    caplog.clear()
    begin(worker_for(dataset, "an"), saved)
    assert not caplog.records


def test_a_checkpoint_that_does_not_know_its_tars_goes_on(squares: Path, tmp_path: Path) -> None:
    first = begin(worker_for(squares, "an", checkpoint_every=2))
    first.train(1, on_pause=lambda: first.save(str(tmp_path), {SCORE: 0.0}))
    meta = json.loads((tmp_path / "meta.json").read_text())
    del meta["shards_sha256"]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert begin(worker_for(squares, "an"), tmp_path).images_seen == 64


def test_other_labels_than_the_checkpoints_are_refused(squares: Path, tmp_path: Path) -> None:
    first = begin(worker_for(squares, "an"))
    first.train(1)
    first.save(str(tmp_path), {SCORE: 0.0})
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "labels": "second"}))
    with pytest.raises(InputError, match="'second', would go on with 'first'"):
        begin(worker_for(squares, "an"), tmp_path)


def test_full_labels_are_refused_where_labels_are_partial(squares: Path) -> None:
    worker = begin(worker_for(squares, "full"))
    with pytest.raises(InputError, match="unobserved"):
        worker.train(1)


def test_an_epoch_is_validated_and_published(squares: Path) -> None:
    worker = begin(worker_for(squares, "ll-r"))
    worker.train(1)
    metrics = worker.validate()
    assert 0 < metrics["val/mAP/all"] == metrics[SCORE] <= 1
    calls = worker.tracker.calls
    assert {"train/loss", "train/modified_fraction", "data/wait_fraction", "val/mAP/group_1"} <= {
        key for points, *_ in calls["log"] for key, _, _ in points
    }
    assert {path for _, path in calls["artifact"]} == {
        "cam/epoch_001.png",
        "eval/epoch_001/group_map.png",
        "eval/epoch_001/summary.md",
    }
    assert [path for _, path in calls["table"]] == ["eval/epoch_001/per_class_ap.json"]
    assert len(calls["image"]) == 4
    assert {step for _, _, step in calls["image"]} == {96}
    assert calls["progress"][-1][0].label == f"validate 1/{EPOCHS}"


def test_an_epoch_left_within_its_validation_is_scored_by_who_goes_on(
    squares: Path, tmp_path: Path
) -> None:
    undisturbed = begin(worker_for(squares, "an", batch=4))
    undisturbed.train(1)
    expected = undisturbed.validate()

    left = begin(worker_for(squares, "an", batch=4))
    left.train(1)
    noticed = iter([False, True])
    with pytest.raises(LeftEarly, match="batch 2"):
        left.validate(leaving=lambda: next(noticed))
    assert not left.tracker.calls["table"]
    left.save(str(tmp_path), {SCORE: UNSCORED})

    resumed = begin(worker_for(squares, "an", batch=4), tmp_path)
    assert (resumed.unscored, resumed.epoch) == (True, 1)
    assert resumed.validate() == expected
    resumed.save(str(tmp_path), expected)
    assert not begin(worker_for(squares, "an", batch=4), tmp_path).unscored


def test_a_checkpoint_is_enough_to_score(squares: Path, tmp_path: Path) -> None:
    worker = begin(worker_for(squares, "an"))
    worker.train(1)
    metrics = worker.validate()
    worker.save(str(tmp_path), metrics)
    model, meta = checkpoint.load_model(tmp_path)
    assert meta.metrics == metrics
    assert meta.mlflow_run_id == "run"
    ours, theirs = model.state_dict(), worker.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_corrections_are_a_table_in_the_checkpoint(squares: Path, tmp_path: Path) -> None:
    worker = begin(worker_for(squares, "ll-cp"))
    for epoch in (1, 2):
        worker.train(epoch)
    worker.save(str(tmp_path), {SCORE: 0.0})
    table = pq.read_table(tmp_path / "corrections.parquet").to_pydict()
    ids_M, classes_M = worker.method.corrections()
    assert len(table["mid"]) == len(ids_M) > 0
    assert table["image_id"] == format_image_ids(ids_M.numpy().view(np.uint64))
    assert table["class"] == classes_M.tolist()
    assert table["mid"] == [worker.dataset.classes.mids[k] for k in classes_M]


def test_a_profile_is_a_trace_of_some_steps(squares: Path, tmp_path: Path) -> None:
    worker = worker_for(squares, "an", profile=True, storage=str(tmp_path), batch=8)
    begin(worker).train(1)
    ((content, path),) = worker.tracker.calls["artifact"]
    assert path == "profile/trace.json.gz"
    assert (tmp_path / worker.config.run_name / path).read_bytes() == content
    names = {event.get("name") for event in json.loads(gzip.decompress(content))["traceEvents"]}
    assert {"ProfilerStep#3", "ProfilerStep#5", "aten::conv2d"} <= names
    assert "ProfilerStep#6" not in names
