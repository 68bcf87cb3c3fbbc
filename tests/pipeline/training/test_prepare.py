"""A run's name is claimed by its configuration and labels; MLflow says what it runs on."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.cluster import checkpoints, lease, session
from pipeline.cluster.placement import Node
from pipeline.config import precision
from pipeline.config.sections import DataConfig, ModelConfig, OptimizerConfig
from pipeline.config.train import TrainConfig
from pipeline.data import profile
from pipeline.tracking import runs
from pipeline.tracking.client import mlflow_client
from pipeline.training import prepare, progress, train
from pipeline.training.failures import TrainingEnded
from pipeline.training.prepare import Prepared
from pipeline.training.train_loop import try_batch
from sharding.errors import InputError
from sharding.manifest import Dataset, Manifest
from tests.support.models import BACKBONE, write_checkpoint
from tests.support.training import OPTIONS

CHECKPOINT = "checkpoint_2026-11-24_10-00-00.000000"
CONFIG = TrainConfig(dataset="/data/set", name="a")


def test_the_same_configuration_goes_on(tmp_path: Path) -> None:
    assert not prepare.claim(str(tmp_path / "a"), CONFIG, "digest")
    assert prepare.claim(str(tmp_path / "a"), CONFIG, "digest")


def test_training_copies_the_images_that_it_reads(squares: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    config = TrainConfig(dataset=squares.as_uri(), cache=cache)
    images = prepare.open_cached(config).directory / "images"
    assert {path.name.split("-")[0] for path in images.glob("*.tar")} == {"train", "validation"}


@pytest.mark.parametrize("place", ["file/runs", "/proc/runs"])
def test_a_storage_that_takes_nothing_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a run cannot be kept here .* Fix: pass as --storage"):
        prepare.claim(str(tmp_path / place / "a"), CONFIG, "digest")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"dataset": "/da',
        b"[1, 2]",
        b"\xff",
        b"{}",
        json.dumps({**CONFIG.to_dict(), "later": 1}).encode(),
    ],
)
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json: not a configuration .* Fix: choose"):
        prepare.claim(str(tmp_path), CONFIG, "digest")
    (tmp_path / "config.json").unlink()  # the fix
    assert not prepare.claim(str(tmp_path), CONFIG, "digest")


@pytest.mark.parametrize(("wanted", "gpu"), [(True, False), (True, True), (False, False)])
def test_batch_norm_that_cannot_be_shared_is_told(
    wanted: bool, gpu: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "place", lambda *asked: (gpu, 2))
    config = TrainConfig(dataset="d", model=ModelConfig(sync_batchnorm=wanted))
    assert prepare.worker_resources(config) == (gpu, 2)
    assert ("--sync-batchnorm is for GPUs" in capsys.readouterr().out) == (wanted and not gpu)


@pytest.mark.parametrize(
    ("workers", "nodes", "begun", "kept"),
    [
        ("1", [Node(2, 0)], 2, 1),
        ("1", [Node(4, 0)], 2, 2),
        ("2", [Node(2, 0)], 1, 1),
        ("1:2", [Node(6, 0)], 2, 2),
        ("1:2", [Node(4, 0)], 2, 1),
    ],
    ids=["no-room-beside", "room-beside", "never-any-room", "elastic", "elastic-without-room"],
)
def test_a_resumed_run_leaves_room_for_the_validation_beside_it(
    workers: str,
    nodes: list[Node],
    begun: int,
    kept: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else its checkpoints wait, unvalidated, until the training ends."""
    monkeypatch.setattr(session, "nodes", lambda: nodes)
    monkeypatch.setattr(session, "wait_for_nodes", lambda *asked: None)
    stored = TrainConfig(dataset="d", workers=workers, cpus_per_worker=begun)
    now = dataclasses.replace(stored, cpus_per_worker=None, async_validation=True)
    assert prepare.worker_resources(now, stored) == (False, kept)
    assert ("as it began with" in capsys.readouterr().out) == (kept != begun)


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(tmp_path / "runs" / "one")


@pytest.fixture
def sharded_anew(squares: Path, tmp_path: Path) -> Dataset:
    copy = shutil.copytree(squares, tmp_path / "dataset")
    manifest = Manifest.read(copy)
    shutil.copytree(copy / "labels/first", copy / "labels/second")
    first = manifest.labels["first"]
    files = {
        split: dataclasses.replace(file, path=file.path.replace("/first/", "/second/"))
        for split, file in first.splits.items()
    }
    labels = {**manifest.labels, "second": dataclasses.replace(first, splits=files)}
    dataclasses.replace(manifest, labels=labels, default_labels="second").write(copy)
    return Dataset.open(copy)


def test_files_are_named_for_workers_that_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").touch()
    options = ("mode=ignore", "prior=p.parquet")
    model = ModelConfig(weights="w.pth")
    found = prepare.located(TrainConfig(dataset="d", model=model, method_options=options))
    assert found.model.weights == str(tmp_path / "w.pth")
    assert found.dataset == str(tmp_path / "d")
    assert found.method_options == ("mode=ignore", f"prior={tmp_path}/p.parquet")
    for name in ("IMAGENET1K_V1", "pretrained", None):
        config = TrainConfig(dataset="d", model=ModelConfig(weights=name))
        assert prepare.located(config).model.weights == name


def begun(run: str, dataset: Dataset, labels: str | None = None) -> tuple[bool, str | None]:
    """Whether the run is resumed, and the labels it trains on."""
    config = TrainConfig(dataset="d", name="one", labels=labels)
    config = prepare.settled(config, dataset, run)
    return prepare.claim(run, config, dataset.digest), config.labels


def test_a_new_default_is_not_taken_over(run: str, squares: Path, sharded_anew: Dataset) -> None:
    assert begun(run, Dataset.open(squares)) == (False, "first")
    assert begun(run, sharded_anew) == (True, "first")
    assert begun(run, sharded_anew, "first") == (True, "first")


def test_a_new_run_takes_it(run: str, sharded_anew: Dataset) -> None:
    assert begun(run, sharded_anew) == (False, "second")


def test_the_precision_of_a_run_is_that_of_the_machine_it_began_on(
    run: str, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun_in(flags: str) -> str:
        (tmp_path / "cpuinfo").write_text(f"model name : any\nflags\t\t: {flags}\n")
        monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "cpuinfo")
        config = TrainConfig(dataset="d", name="one", optimizer=OptimizerConfig(precision="auto"))
        config = prepare.settled(config, Dataset.open(squares), run)
        prepare.claim(run, config, "digest")
        return config.optimizer.precision

    assert begun_in("sse avx512_bf16 amx_tile") == "fp32"
    assert begun_in("sse amx_bf16 amx_tile") == "fp32", "the run's own"
    (Path(run) / "config.json").unlink()
    assert begun_in("sse amx_bf16 amx_tile") == "bf16"


def test_other_labels_are_another_run(run: str, squares: Path, sharded_anew: Dataset) -> None:
    begun(run, Dataset.open(squares))
    with pytest.raises(InputError, match=r"labels was first, is second.*another --run"):
        begun(run, sharded_anew, "second")


def test_tags_are_those_of_the_latest_command(
    squares: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    dataset, run = Dataset.open(squares), tmp_path / "runs/a"
    output = []
    for workers, job, last in (("1", "01000000", ""), ("2", "02000000", CHECKPOINT)):
        if last:
            write_checkpoint(run / last, squares)
            # A later upload was cut: the run goes on from the one before.
            half = run / CHECKPOINT.replace("00.0", "01.0")
            half.mkdir()
            listed = {"latest_checkpoint_result": {"checkpoint_dir_name": half.name}}
            (run / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
        monkeypatch.setattr(session, "job_id", lambda job=job: job)
        config = TrainConfig(dataset=str(squares), workers=workers, labels="first")
        where = {"dataset": dataset, "directory": str(run), "resumed": bool(last)}
        run_id = prepare.open_run(
            Prepared(config=config, use_gpu=False, cpus=1, preset="coco", **where)
        )
        runs.close_run(run_id, "KILLED")
        found = MlflowClient(uri).get_run(run_id).data
        output.append((run_id, found.tags))
    assert found.params["method_options.delta_rel"] == "0.2"
    (first_id, first), (second_id, second) = output
    assert first_id == second_id
    assert (first["world_size"], first["ray_job_id"]) == ("1", "01000000")
    assert (second["world_size"], second["ray_job_id"]) == ("2", "02000000")
    assert "resumed_from" not in first
    assert second["preset"] == found.params["preset"] == "coco"
    assert (second["labels"], second["method"]) == ("first", "ll-r")
    assert second["licence"] == profile.licence(dataset)
    assert second["resumed_from"] == CHECKPOINT
    assert second["package_version"] == metadata.version("openimages-boostlu")
    assert second["dataset_digest"] == dataset.digest
    assert second["mlflow.runName"] == first["mlflow.runName"] == config.run_name


@pytest.mark.parametrize("how", ["moved", "copied", "mounted twice"])
def test_a_moved_run_keeps_its_run_in_mlflow_and_a_copy_gets_its_own(
    squares: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    monkeypatch.setattr(session, "job_id", lambda: "01000000")
    run, other = tmp_path / "runs/a", tmp_path / "other"

    def open_run(directory: Path, resumed: bool) -> str:
        config = TrainConfig(dataset=str(squares), labels="first")
        where = {"dataset": Dataset.open(squares), "directory": str(directory), "resumed": resumed}
        return prepare.open_run(Prepared(config=config, use_gpu=False, cpus=1, **where))

    first = open_run(run, False)
    write_checkpoint(run / CHECKPOINT, squares, run_id=first)
    listed = {"latest_checkpoint_result": {"checkpoint_dir_name": CHECKPOINT}}
    (run / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
    place = {"moved": run.rename, "copied": functools.partial(shutil.copytree, run)}
    place.get(how, lambda to: to.symlink_to(run))(other)
    second = open_run(other, True)
    assert (second == first) == (how != "copied")
    assert open_run(other, True) == second
    assert mlflow_client().get_run(second).data.tags.get("copied_from") == (
        first if how == "copied" else None
    )


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_a_run_of_another_cluster_in_the_same_place_is_left_alone(
    has_checkpoint: bool, squares: Path, empty_store: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    monkeypatch.setattr(session, "job_id", lambda: "01000000")
    volume, ours, theirs = tmp_path / "data", tmp_path / "ours", tmp_path / "theirs"
    run = volume / "runs/a"

    def open_run(resumed: bool) -> str:
        run.mkdir(parents=True, exist_ok=True)
        config = TrainConfig(dataset=str(squares), labels="first")
        where = {"dataset": Dataset.open(squares), "directory": str(run), "resumed": resumed}
        return prepare.open_run(Prepared(config=config, use_gpu=False, cpus=1, **where))

    first = open_run(False)
    if has_checkpoint:  # of 0.2.0, which kept the id in checkpoints alone
        (run / "mlflow.json").unlink(missing_ok=True)
        write_checkpoint(run / CHECKPOINT, squares, run_id=first)
        listed = {"latest_checkpoint_result": {"checkpoint_dir_name": CHECKPOINT}}
        (run / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
    volume.rename(ours)
    other = open_run(False)
    assert other != first
    volume.rename(theirs)
    ours.rename(volume)
    assert open_run(True) == first
    volume.rename(ours)
    theirs.rename(volume)
    assert open_run(True) == other


def prepared(run: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Prepared:
    """A run of two epochs, checked as on a cluster of one CPU."""
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setattr(session, "place", lambda *asked: (False, 1))
    config = TrainConfig(
        dataset=str(dataset),
        storage=str(run.parent),
        name=run.name,
        model=ModelConfig(backbone=BACKBONE),
        optimizer=OptimizerConfig(epochs=2),
    )
    return prepare.prepare(prepare.check(dataclasses.replace(config, **options)))


def test_a_run_keeps_the_cpus_per_worker_that_it_began_with(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPU, threads show in the weights; a command that asks for none gets the run's."""

    def cpus(there: int, asked: int | None = None, workers: str = "1") -> tuple[int, int | None]:
        """Go on with the run on a node of so many CPUs."""
        monkeypatch.setattr(session, "connect", lambda: None)
        monkeypatch.setattr(session, "wait_for_nodes", lambda *_: None)
        monkeypatch.setattr(session, "nodes", lambda: [Node(there, 0)])
        config = TrainConfig(
            dataset=str(squares),
            storage=str(tmp_path / "runs"),
            name="a",
            workers=workers,
            cpus_per_worker=asked,
            model=ModelConfig(backbone=BACKBONE),
        )
        run = prepare.prepare(prepare.check(config))
        prepare.claim(run.directory, run.config, run.dataset.digest)
        return run.cpus, prepare.stored(config).cpus_per_worker  # type: ignore[union-attr]

    assert cpus(2) == (2, 2), "all that there are"
    assert cpus(8) == (2, 2)
    assert cpus(8, asked=3) == (3, 3)
    assert cpus(8) == (3, 3)
    assert cpus(2) == (2, 2), "3 do not fit"
    assert cpus(8, workers="2") == (4, 4), "which other workers changes anyway"


@pytest.mark.parametrize(("how", "logged"), [("link", ["b"]), ("kept", ["a", "b"]), ("off", [])])
def test_the_checkpoints_asked_for_become_mlflow_models(
    how: str, logged: list[str], squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path / "runs/a", squares, monkeypatch, log_model=how)
    monkeypatch.setattr(checkpoints, "metrics_of", lambda directory: {"a": {}, "b": {}})
    best = storage.join(run.directory, "b")
    assert train._logged(run, best) == [storage.join(run.directory, name) for name in logged]


def test_a_run_goes_on_where_it_or_its_dataset_was_moved(squares: Path, tmp_path: Path) -> None:
    run, digest = tmp_path / "runs/a", Dataset.open(squares).digest
    config = TrainConfig(dataset="/data/set", storage="/data/runs", name="a")
    prepare.claim(str(run), config, digest)
    write_checkpoint(run / CHECKPOINT, squares)
    listed = {"latest_checkpoint_result": {"checkpoint_dir_name": CHECKPOINT}}
    (run / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
    moved = dataclasses.replace(config, dataset="/mnt/set", storage="/mnt/runs")
    assert prepare.claim(str(run), moved, digest)
    with pytest.raises(InputError, match="dataset was /mnt/set, is /data/set"):
        prepare.claim(str(run), config, "another")


def test_a_plan_says_what_is_trained_and_keeps_nothing(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs/a"
    plan = progress.describe(prepared(run, squares, monkeypatch))
    rows = {line.partition(" ")[0]: line for line in plan.splitlines()}
    assert rows["run"] == f"run      {run}: begins"
    assert "labels first" in rows["dataset"]
    assert "96 train, 40 validation, 24 test; 8 classes" in rows["images"]
    assert rows["method"] == "method   ll-r (delta_rel 0.2)"
    # 8 classes, one epoch after the first, 0.2 % of the entries.
    says = "ll-r takes up to 0.016 entries of an image for missing labels in the last epoch"
    assert rows["ll-r"] == says
    assert rows["network"].endswith(" px, from random weights, fp32")
    assert rows["head"] == "head     BoostLU 5 in training and 5 in inference"
    assert rows["workers"] == "workers  1 on CPU, threads each: 1; 16 images a step, 2 epochs"
    assert not run.exists()


def test_no_more_entries_are_taken_for_missing_labels_than_there_are(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepared(tmp_path / "runs/a", squares, monkeypatch)
    config = dataclasses.replace(
        plan.config, method_options=("delta_rel=90",), optimizer=OptimizerConfig(epochs=3)
    )
    shown = progress.describe(dataclasses.replace(plan, config=config))
    assert "ll-r takes up to 8 entries of an image" in shown


def test_a_plan_says_how_many_classes_validation_cannot_score(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepared(tmp_path / "runs/a", squares, monkeypatch)
    assert "no positive" not in progress.describe(plan)
    table = plan.dataset.labels("validation")
    few = table.select(table.image_ids_N[:1])
    monkeypatch.setattr(Dataset, "labels", lambda self, split, name: few)
    positives_K, _ = few.count_per_class(8)
    missing = int((positives_K == 0).sum())
    assert 0 < missing < 8
    assert f"validation has no positive of {missing} of 8 classes\n" in progress.describe(plan)


def test_a_plan_advises_the_method_for_complete_labels_once(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepared(tmp_path / "runs/a", squares, monkeypatch)
    monkeypatch.setattr(Dataset, "is_complete", lambda self, name: name == "first")
    assert "(--method full)" in progress.describe(plan)
    full = dataclasses.replace(plan.config, method="full", method_options=())
    assert "(--method full)" not in progress.describe(dataclasses.replace(plan, config=full))


@pytest.mark.parametrize(
    ("epoch", "step", "place"),
    [
        (1, 0, "resuming after epoch 1"),
        (1, 40, "resuming epoch 2, step 40"),
        (2, 0, "already finished, 2 epochs"),
        (3, 0, "trained for 3 epochs, more than the 2 asked for"),
    ],
)
def test_a_plan_says_where_a_run_goes_on(
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
    step: int,
    place: str,
) -> None:
    run = tmp_path / "runs/a"
    write_checkpoint(run / CHECKPOINT, squares)
    meta = json.loads((run / CHECKPOINT / "meta.json").read_text())
    meta |= {"epoch": epoch, "step": step}
    (run / CHECKPOINT / "meta.json").write_text(json.dumps(meta))
    listed = {"latest_checkpoint_result": {"checkpoint_dir_name": CHECKPOINT}}
    (run / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
    begun = prepared(run, squares, monkeypatch)
    plan = progress.describe(dataclasses.replace(begun, resumed=True))
    assert f"{run}: {place}\n" in plan


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method_options": ("delta=1",)}, "no option delta"),
        ({"dataset": "/absent"}, "/absent: no such directory"),
        ({"name": "schnee-gr\u00fcn"}, "run name 'schnee-gr\u00fcn'. Fix: choose letters"),
        ({"model": ModelConfig(backbone="resnet19")}, "no backbone"),
        ({"method": "full"}, "labels 'first' are partial, .*'full' wants every one. Fix: .* ll-r"),
    ],
)
def test_bad_options_are_said_before_ray_starts(
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    problem: str,
) -> None:
    monkeypatch.setattr(session, "connect", lambda: pytest.fail("Ray started"))
    config = TrainConfig(dataset=str(squares), storage=str(tmp_path), name="a")
    with pytest.raises(InputError, match=problem):
        prepare.prepare(prepare.check(dataclasses.replace(config, **options)))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_tar_that_is_gone_is_said_before_ray_starts(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    monkeypatch.setattr(session, "connect", lambda: pytest.fail("Ray started"))
    dataset = Path(shutil.copytree(squares, tmp_path / "dataset"))
    (dataset / f"images/{split}-000000.tar").unlink()
    config = TrainConfig(dataset=str(dataset), storage=str(tmp_path / "runs"), name="a")
    with pytest.raises(InputError, match=rf"{split}-000000\.tar: "):
        prepare.prepare(prepare.check(config))


def test_a_storage_that_cannot_be_written_to_is_said_before_ray_starts(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "connect", lambda: pytest.fail("Ray started"))
    config = TrainConfig(dataset=str(squares), storage=str(tmp_path / "runs"), name="a")
    checked = prepare.check(config)  # reads alone
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(InputError, match=r"runs/a: a run cannot be kept here .* Fix: pass as --s"):
        prepare.prepare(checked)


@pytest.mark.parametrize("method", ["ll-cp", "role-li"])
def test_a_first_batch_is_tried_in_memory(squares: Path, method: str) -> None:
    config = TrainConfig(
        dataset=str(squares),
        method=method,
        method_options=OPTIONS[method],
        workers="2",
        model=ModelConfig(backbone=BACKBONE),
        data=DataConfig(image_size=32),
    )
    images, loss = try_batch(config, 1, False, 0)
    assert images == 8
    assert 0 < loss < 10


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"backbone": "maxvit_t"}, "maxvit_t gives no feature maps of 100 x 100 pixels"),
        ({"backbone": "resnet18", "weights": "text.pth"}, "text.pth: not a state dict"),
    ],
)
def test_a_network_that_cannot_work_is_told_before_ray_starts(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "connect", lambda: pytest.fail("Ray started"))
    Path("text.pth").write_text("none")
    config = TrainConfig(
        dataset=str(squares), model=ModelConfig(**model), data=DataConfig(image_size=100)
    )
    with pytest.raises(InputError, match=message):
        prepare.prepare(prepare.check(config))


@pytest.mark.parametrize("job", [train.train, train.dry_run])
def test_a_run_that_is_trained_already_ends_the_job(
    job: Callable[[TrainConfig], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(config: TrainConfig) -> None:
        raise lease.Held("process 7 trains it")

    monkeypatch.setattr(prepare, "check", held)
    with pytest.raises(TrainingEnded, match="process 7"):
        job(CONFIG)


def test_the_driver_reads_a_finished_run_without_torch_or_ray() -> None:
    code = """
import sys
import pipeline.training.train
heavy = {"torch", "ray", "mlflow", "matplotlib", "pandas", "nvidia"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
