"""One rank without Ray: every method trains, validates, is saved and goes on where it stopped."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import methods
from pipeline.cluster.checkpoints import SCORE, UNSCORED
from pipeline.data import dali
from pipeline.evaluation import figures, publish
from pipeline.models import checkpoint
from pipeline.training import train_loop
from pipeline.training.epoch import run_epoch
from pipeline.training.loop import StopRequested
from pipeline.training.worker import Worker
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset
from tests.support.datasets import relabel
from tests.support.training import EPOCHS, assert_same_weights, begun, worker_for


@pytest.mark.parametrize(
    "method", [name for name in methods.names() if name not in ("full", "vlpl")]
)
def test_every_method_trains_and_goes_on_where_it_stopped(
    squares: Path, tmp_path: Path, method: str
) -> None:
    undisturbed = begun(worker_for(squares, method))
    for epoch in (1, 2):
        run_epoch(undisturbed, epoch)
    undisturbed.save(str(tmp_path), {SCORE: 0.0})
    run_epoch(undisturbed, EPOCHS)

    resumed = begun(worker_for(squares, method), tmp_path)
    assert (resumed.epoch, resumed.images_seen) == (2, 192)
    run_epoch(resumed, EPOCHS)
    assert_same_weights(resumed.state.model, undisturbed.state.model)


@pytest.mark.parametrize("method", ["ll-cp", "p-asl", "cnn-rnn", "role-li", "imcl", "em-apl"])
def test_it_goes_on_within_an_epoch(squares: Path, tmp_path: Path, method: str) -> None:
    undisturbed = begun(worker_for(squares, method, checkpoint_every=2))
    run_epoch(undisturbed, 1)
    run_epoch(undisturbed, 2, save=lambda: undisturbed.save(str(tmp_path), {SCORE: 0.0}))
    assert checkpoint.read_meta(tmp_path).step == 2

    resumed = begun(worker_for(squares, method, checkpoint_every=2), tmp_path)
    assert (resumed.epoch, resumed.images_seen) == (1, 96 + 64)
    run_epoch(resumed, 2)
    assert resumed.images_seen == 192
    for worker in (undisturbed, resumed):
        run_epoch(worker, EPOCHS)
    assert_same_weights(resumed.state.model, undisturbed.state.model)


def test_a_run_of_another_adam_goes_on_with_it(squares: Path, tmp_path: Path) -> None:
    undisturbed = begun(worker_for(squares, "an"))
    for group in undisturbed.state.optimizer.param_groups:
        assert group["fused"]
        group["fused"] = False  # as until 0.2.0, on a CPU
    run_epoch(undisturbed, 1)
    undisturbed.save(str(tmp_path), {SCORE: 0.0})
    run_epoch(undisturbed, 2)

    resumed = begun(worker_for(squares, "an"), tmp_path)
    assert not any(group["fused"] for group in resumed.state.optimizer.param_groups)
    run_epoch(resumed, 2)
    assert_same_weights(resumed.state.model, undisturbed.state.model)


def curve_of(*workers: Worker) -> list[tuple[str, int, float]]:
    """What MLflow has in the end of trainings one after another; times differ always."""
    points = [
        point for worker in workers for some, *_ in worker.run_log.calls["log"] for point in some
    ]
    timeless = ("train/loss", "train/lr", "train/modified_fraction")
    found = {(key, step): value for key, value, step in reversed(points) if key in timeless}
    return sorted((key, step, value) for (key, step), value in found.items())


@pytest.mark.parametrize("leave_at", [6, 7])
def test_pauses_and_stops_leave_the_curve_as_it_is(
    squares: Path, tmp_path: Path, leave_at: int
) -> None:
    """24 steps, statistics of every second one."""
    undisturbed = begun(worker_for(squares, "ll-r", batch=4))
    run_epoch(undisturbed, 1)

    left = begun(worker_for(squares, "ll-r", batch=4, checkpoint_every=3))
    asked = iter([False] * (leave_at - 1) + [True])
    with pytest.raises(StopRequested):
        run_epoch(
            left,
            1,
            save=lambda: left.save(str(tmp_path), {SCORE: 0.0}),
            should_stop=lambda: next(asked),
        )
    assert checkpoint.read_meta(tmp_path).images_seen == leave_at * 4
    resumed = begun(worker_for(squares, "ll-r", batch=4, checkpoint_every=3), tmp_path)
    assert resumed.images_seen == leave_at * 4
    run_epoch(resumed, 1)
    assert curve_of(left, resumed) == curve_of(undisturbed)
    assert [step for key, step, _ in curve_of(left) if key == "train/loss"] == list(
        range(8, leave_at * 4 + 1, 8)
    )
    rates = [
        value
        for some, *_ in resumed.run_log.calls["log"]
        for key, value, _ in some
        if key == "workers/wait_fraction"
    ]
    assert all(0 <= rate <= 1 for rate in rates)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"world_size": 3}, "epoch 1 was left at step 2 by 3 workers; 1 begin it again"),
        # DALI cannot place a reader of one kind of device where one of another was.
        ({"reader": dali.version_on("cuda")}, " on cuda; it begins again with DALI "),
    ],
    ids=["workers", "device"],
)
def test_others_than_left_it_begin_the_epoch_again(
    written: dict[str, Any],
    told: str,
    squares: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = begun(worker_for(squares, "ll-cp", checkpoint_every=2))
    run_epoch(first, 1, save=lambda: first.save(str(tmp_path), {SCORE: 0.0}))
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert (meta["world_size"], meta["reader"]) == (1, dali.version_on("cpu"))
    (tmp_path / "meta.json").write_text(json.dumps({**meta, **written}))

    second = begun(worker_for(squares, "ll-cp", checkpoint_every=2), tmp_path)
    assert told in caplog.text
    assert (second.epoch, second.images_seen) == (0, 0)
    run_epoch(second, 1)
    assert second.images_seen == 96


def without_a_tar(squares: Path, tmp_path: Path) -> Path:
    """The dataset less its second training tar, as before it was extended."""
    less, gone = shutil.copytree(squares, tmp_path / "dataset"), "images/train-000001.tar"
    table = Dataset.open(less).labels("train")
    kept = [shard != gone for shard in table.shards]
    names = [shard for shard in table.shards if shard != gone]
    manifest = relabel(less, table.select(table.image_ids_N[kept], names)).manifest
    shards = tuple(s for s in manifest.shards if s.path != gone)
    dataclasses.replace(manifest, shards=shards).write(less)
    return less


def with_all_tars(squares: Path, dataset: Path) -> None:
    """Extend the dataset again; its tars, which a pipeline may have open, stay as they are."""
    shutil.copytree(squares, dataset, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.tar"))


def test_other_training_images_begin_the_epoch_again(
    squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, saved = without_a_tar(squares, tmp_path), tmp_path / "saved"
    saved.mkdir()
    first = begun(worker_for(dataset, "an", checkpoint_every=1))
    run_epoch(first, 1, save=lambda: first.save(str(saved), {SCORE: 0.0}))
    assert checkpoint.read_meta(saved).step == 2
    with_all_tars(squares, dataset)

    second = begun(worker_for(dataset, "an"), saved)
    assert "epoch 1 was left at step 2 with other training images" in caplog.text
    run_epoch(second, 1)
    assert second.images_seen == 96


def test_other_training_images_are_told_between_epochs(
    squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, saved = without_a_tar(squares, tmp_path), tmp_path / "saved"
    saved.mkdir()
    first = begun(worker_for(dataset, "an"))
    run_epoch(first, 1)
    first.save(str(saved), {SCORE: 0.0})
    with_all_tars(squares, dataset)

    second = begun(worker_for(dataset, "an"), saved)
    assert "training images are not those of epoch 1" in caplog.text
    run_epoch(second, 2)
    assert second.images_seen == 67 + 96
    second.save(str(saved), {SCORE: 0.0})
    caplog.clear()
    begun(worker_for(dataset, "an"), saved)
    assert not caplog.records


def test_a_checkpoint_that_does_not_know_its_tars_goes_on(squares: Path, tmp_path: Path) -> None:
    first = begun(worker_for(squares, "an", checkpoint_every=2))
    run_epoch(first, 1, save=lambda: first.save(str(tmp_path), {SCORE: 0.0}))
    meta = json.loads((tmp_path / "meta.json").read_text())
    del meta["shards_sha256"]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert begun(worker_for(squares, "an"), tmp_path).images_seen == 64


def test_other_labels_than_the_checkpoints_are_refused(squares: Path, tmp_path: Path) -> None:
    first = begun(worker_for(squares, "an"))
    run_epoch(first, 1)
    first.save(str(tmp_path), {SCORE: 0.0})
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "labels": "second"}))
    with pytest.raises(InputError, match="'second', would go on with 'first'"):
        begun(worker_for(squares, "an"), tmp_path)


def test_full_labels_are_refused_where_labels_are_partial(squares: Path) -> None:
    worker = begun(worker_for(squares, "full"))
    with pytest.raises(InputError, match="unobserved"):
        run_epoch(worker, 1)


def test_an_epoch_is_validated_and_published(squares: Path) -> None:
    worker = begun(worker_for(squares, "ll-r"))
    run_epoch(worker, 1)
    metrics = worker.validate()
    assert 0 < metrics["val/mAP/all"] == metrics[SCORE] <= 1
    worker.validator.finish()
    calls = worker.run_log.calls
    assert {
        "train/loss",
        "train/modified_fraction",
        "workers/wait_fraction",
        "val/mAP/group_1",
    } <= {key for points, *_ in calls["log"] for key, _, _ in points}
    assert {path for _, path in calls["artifact"]} == {
        "cam/epoch_001.png",
        "eval/epoch_001/group_map.png",
        "eval/epoch_001/summary.md",
    }
    assert [path for _, path in calls["table"]] == ["eval/epoch_001/per_class_ap.json"]
    assert [path for path, _ in calls["update"]] == ["cam/maps.html"]
    assert calls["progress"][-1][0].label == f"validate 1/{EPOCHS}"


def test_training_goes_on_while_maps_are_drawn(
    squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_draw, drawn = threading.Event(), []

    def slow(*_: object, epoch: int, **__: object) -> None:
        assert may_draw.wait(60)
        drawn.append(epoch)

    monkeypatch.setattr(publish, "maps", slow)
    worker = begun(worker_for(squares, "an"))
    run_epoch(worker, 1)
    worker.validate()
    run_epoch(worker, 2)
    assert not drawn
    may_draw.set()
    worker.validate()
    assert drawn[0] == 1, "one epoch's at a time"
    worker.validator.finish()
    assert drawn == [1, 2]


def test_an_epoch_is_scored_where_its_pictures_fail(
    squares: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such glyph")

    monkeypatch.setattr(figures, "group_bars", broken)
    monkeypatch.setattr(publish, "maps", broken)
    worker = begun(worker_for(squares, "an"))
    run_epoch(worker, 1)
    assert 0 < worker.validate()[SCORE] <= 1
    worker.validator.finish()
    assert "val/mAP/all" in {
        key for points, *_ in worker.run_log.calls["log"] for key, _, _ in points
    }
    said = "".join(capsys.readouterr())
    for what in ("group chart", "activation maps"):
        assert f"{what} left out: ValueError: no such glyph" in said


def test_an_epoch_left_within_its_validation_is_scored_by_who_goes_on(
    squares: Path, tmp_path: Path
) -> None:
    undisturbed = begun(worker_for(squares, "an", batch=4))
    run_epoch(undisturbed, 1)
    expected = undisturbed.validate()

    left = begun(worker_for(squares, "an", batch=4))
    run_epoch(left, 1)
    asked = iter([False, True])
    with pytest.raises(StopRequested, match="batch 2"):
        left.validate(should_stop=lambda: next(asked))
    assert not left.run_log.calls["table"]
    left.save(str(tmp_path), {SCORE: UNSCORED})

    resumed = begun(worker_for(squares, "an", batch=4), tmp_path)
    assert (resumed.unscored, resumed.epoch) == (True, 1)
    assert resumed.validate() == expected
    resumed.save(str(tmp_path), expected)
    assert not begun(worker_for(squares, "an", batch=4), tmp_path).unscored


@pytest.mark.parametrize(
    ("was_async", "is_async", "unscored"),
    [(False, False, True), (False, True, True), (True, False, True), (True, True, False)],
)
def test_what_validates_an_epoch_may_change_before_it_is_scored(
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    was_async: bool,
    is_async: bool,
    unscored: bool,
) -> None:
    left = begun(worker_for(squares, "an", async_validation=was_async))
    left.epoch = EPOCHS
    left.save(str(tmp_path), {SCORE: UNSCORED})
    resumed = begun(worker_for(squares, "an", async_validation=is_async), tmp_path)
    validated: list[Worker] = []
    monkeypatch.setattr(train_loop, "_validate", lambda worker, stop: validated.append(worker))
    train_loop._run(resumed, lambda: False)
    assert validated == [resumed] * unscored


def test_a_checkpoint_is_enough_to_score(squares: Path, tmp_path: Path) -> None:
    worker = begun(worker_for(squares, "an"))
    run_epoch(worker, 1)
    metrics = worker.validate()
    worker.save(str(tmp_path), metrics)
    model, meta = checkpoint.load_model(tmp_path)
    assert meta.metrics == metrics
    assert meta.mlflow_run_id == "run"
    assert_same_weights(model, worker.state.model)


def test_corrections_are_a_table_in_the_checkpoint(squares: Path, tmp_path: Path) -> None:
    worker = begun(worker_for(squares, "ll-cp"))
    for epoch in (1, 2):
        run_epoch(worker, epoch)
    worker.save(str(tmp_path), {SCORE: 0.0})
    table = pq.read_table(tmp_path / "corrections.parquet").to_pydict()
    ids_M, classes_M = worker.method.corrections()
    assert len(table["mid"]) == len(ids_M) > 0
    assert table["image_id"] == format_image_ids(ids_M.numpy().view(np.uint64))
    assert table["class"] == classes_M.tolist()
    assert table["mid"] == [worker.dataset.classes.mids[k] for k in classes_M]


def test_a_profile_is_a_trace_of_some_steps(squares: Path, tmp_path: Path) -> None:
    worker = worker_for(squares, "an", profile=True, storage=str(tmp_path), batch=8)
    run_epoch(begun(worker), 1)
    ((content, path),) = worker.run_log.calls["artifact"]
    assert path == "profile/trace.json.gz"
    assert (tmp_path / worker.config.run_name / path).read_bytes() == content
    names = {event.get("name") for event in json.loads(gzip.decompress(content))["traceEvents"]}
    assert {"ProfilerStep#3", "ProfilerStep#5", "aten::conv2d"} <= names
    assert "ProfilerStep#6" not in names
