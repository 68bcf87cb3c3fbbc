"""Whatever ends a run is written down: scores at every slope, or the reason why there are none."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline.evaluation.record
import pipeline.evaluation.run
import pipeline.training.train
from pipeline import storage
from pipeline.cluster import own_run, session
from pipeline.cluster.placement import Node
from pipeline.config.study import StudyConfig
from pipeline.evaluation.record import NotRecorded
from pipeline.evaluation.scores import BOOST_OFF, BOOST_ON
from pipeline.study import results
from pipeline.study.execute import Setting, execute
from pipeline.study.plan import PlannedRun, plan
from pipeline.study.progress import RunLines, TrialLines
from pipeline.study.results import Record
from pipeline.study.search import Curve
from pipeline.tracking import runs
from pipeline.training.failures import TrainingFailed, TrainingStopped
from sharding.errors import InputError
from sharding.manifest import Dataset


def run_of(output: Path, *rows: str) -> PlannedRun:
    config = StudyConfig(dataset="/d", output=str(output), rows=rows, preset="demo", seeds=1)
    return plan(config, ("first",), "first").runs[0]


def setting_of(output: Path) -> Setting:
    environment = {"MLFLOW_TRACKING_URI": "sqlite:///nowhere.db"}
    return Setting(
        study=str(output),
        split="test",
        labels="first",
        parent="p",
        workers=2,
        environment=environment,
        preset="demo",
    )


adopted: list[Any] = []


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace training and evaluation; returns the evaluations asked for."""
    asked: list[Any] = []

    def train(config: Any, preset: str) -> Any:
        assert preset == "demo"
        print("epoch 1/1")
        own_run.keep(storage.join(config.storage, config.name), "m", own_run.Found())
        return SimpleNamespace(best="/best", best_metrics={"epoch": 2.0}, mlflow_run_id="m")

    def evaluate(config: Any) -> Any:
        asked.append(config)
        means = {BOOST_OFF: 0.5, BOOST_ON: (config.alpha_infer or 1) / 10}
        summaries = {
            name: SimpleNamespace(means=lambda value=value: {"all": value})
            for name, value in means.items()
        }
        return SimpleNamespace(report=SimpleNamespace(summaries=summaries))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setattr(pipeline.training.train, "train", train)
    monkeypatch.setattr(pipeline.evaluation.run, "evaluate", evaluate)
    monkeypatch.setattr(pipeline.evaluation.record, "record", lambda evaluation: "id")
    monkeypatch.setattr(session, "nodes", lambda: [Node(6, 0)])
    monkeypatch.setattr(runs, "adopt", lambda *about: adopted.append(about))
    adopted.clear()
    return asked


def test_every_slope_is_scored_once(tmp_path: Path, scored: list[Any]) -> None:
    run = run_of(tmp_path, "ll-r@5/1", "ll-r@5/3", "ll-r@5/5")
    config = dataclasses.replace(run.config, cache="/node", cache_gb=7.0)
    run = dataclasses.replace(run, config=config)
    record = execute(run, setting_of(tmp_path))
    assert [(each.alpha_infer, each.split, each.labels) for each in scored] == [
        (3, "test", "first"),
        (5, "test", "first"),
    ]
    assert {(each.cache, each.cache_gb) for each in scored} == {("/node", 7.0)}
    assert record.scores == {1: {"all": 0.5}, 3: {"all": 0.3}, 5: {"all": 0.5}}
    assert (record.status, record.epoch, record.mlflow_run_id) == ("finished", 2, "m")
    assert results.read(str(tmp_path), run.name) == record
    assert results.is_done(record, run, "test", "first")
    assert adopted == [("m", "p", None)]
    assert "epoch 1/1" in (tmp_path / "logs" / f"{run.name}.txt").read_text()


def test_a_run_is_scored_with_as_many_cpus_as_it_is_trained_with(
    tmp_path: Path, scored: list[Any]
) -> None:
    """So that its scores are the same bits however many runs were left."""
    run = run_of(tmp_path, "an@1/1")
    config = dataclasses.replace(run.config, cpus_per_worker=3)
    execute(dataclasses.replace(run, config=config), setting_of(tmp_path))
    assert [each.cpus_per_worker for each in scored] == [3]


@pytest.mark.parametrize(
    ("left", "workers", "cpus"),
    [(Node(4, 0), 1, 3), (Node(2, 0), 2, None), (Node(12, 1), 1, 3)],
    ids=["one-fits", "none-fits-with-so-many", "one-gpu"],
)
def test_a_scoring_takes_what_the_nodes_that_are_left_have_room_for(
    tmp_path: Path,
    scored: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    left: Node,
    workers: int,
    cpus: int | None,
) -> None:
    """A node that is lost after the training does not fail it."""
    run = run_of(tmp_path, "an@1/1")
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, cpus_per_worker=3))
    monkeypatch.setattr(session, "nodes", lambda: [left])
    assert execute(run, setting_of(tmp_path)).status == "finished"
    assert [(each.workers, each.cpus_per_worker) for each in scored] == [(workers, cpus)]
    log = (tmp_path / "logs" / f"{run.name}.txt").read_text()
    assert ("no room for 1 times 3 CPUs, as it began with" in log) == (cpus is None)


def test_without_boostlu_one_evaluation_is_enough(tmp_path: Path, scored: list[Any]) -> None:
    record = execute(run_of(tmp_path, "an@1/1"), setting_of(tmp_path))
    assert [each.alpha_infer for each in scored] == [None]
    assert record.scores == {1: {"all": 0.5}}


def test_what_mlflow_does_not_take_costs_no_score(
    tmp_path: Path, scored: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(evaluation: Any) -> str:
        raise NotRecorded("2 items")

    monkeypatch.setattr(pipeline.evaluation.record, "record", refuse)
    assert execute(run_of(tmp_path, "an@1/1"), setting_of(tmp_path)).status == "finished"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (TrainingStopped("epoch 1: the loss is nan"), "diverged", "epoch 1: the loss is nan"),
        (TrainingFailed("a host died"), "failed", "a host died"),
        (InputError("no room", fix="less"), "failed", "no room. Fix: less"),
        (ValueError("first\nsecond"), "failed", "first"),
    ],
)
def test_an_end_without_scores_has_its_reason(
    tmp_path: Path,
    scored: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: str,
    reason: str,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline.training.train, "train", fail)
    run = run_of(tmp_path, "an@1/1")
    record = execute(run, setting_of(tmp_path))
    assert record.status == status
    assert reason in record.reason
    assert results.is_done(record, run, "test", "first") is (status == "diverged")
    assert "Traceback" in (tmp_path / "logs" / f"{run.name}.txt").read_text()


def test_another_configuration_is_refused(tmp_path: Path, scored: list[Any]) -> None:
    run = run_of(tmp_path, "an@1/1")
    record = execute(run, setting_of(tmp_path))
    results.check(record, run, {})
    other = run_of(tmp_path, "an:image_size=64@1/1")
    with pytest.raises(InputError, match=r"data\.image_size was 96, is 64"):
        results.check(record, other, {})
    failed = dataclasses.replace(record, status="failed", scores={})
    results.check(failed, other, {})  # a wrong path may be corrected
    with pytest.raises(InputError, match="image_size"):
        results.check(dataclasses.replace(failed, scores=record.scores), other, {})


@pytest.mark.parametrize(
    ("row", "epochs", "refused"),
    [
        ("an@1/1", 7, False),
        ("an@1/1", 5, True),  # the run has trained further than it would
        ("gr@1/1", 7, True),  # its schedule is of all epochs
        ("gr:total_epochs=6@1/1", 7, False),
    ],
)
def test_other_epochs_are_refused_where_they_are_another_training(
    tmp_path: Path, scored: list[Any], row: str, epochs: int, refused: bool
) -> None:
    run = run_of(tmp_path, row)
    record = execute(run, setting_of(tmp_path))
    optimizer = dataclasses.replace(run.config.optimizer, epochs=epochs)
    longer = dataclasses.replace(run, config=dataclasses.replace(run.config, optimizer=optimizer))
    with pytest.raises(InputError, match="epochs was 6") if refused else nullcontext():
        results.check(record, longer, {})


def test_scores_of_another_dataset_are_refused(tmp_path: Path, scored: list[Any]) -> None:
    run = run_of(tmp_path, "an@1/1")
    hashes = {
        "images of train": "a",
        "images of test": "b",
        "images of validation": "c",
        "labels first of train": "d",
        "labels first of test": "e",
        "labels second of test": "f",
    }
    setting = dataclasses.replace(setting_of(tmp_path), hashes=hashes)
    record = execute(run, setting)
    scored_by = {"images of train", "images of test", "labels first of train"}
    assert record.data.keys() == scored_by | {"labels first of test"}
    results.check(record, run, {**hashes, "images of validation": "z"})
    for what in record.data:
        with pytest.raises(InputError, match=f"another dataset .{what} differ"):
            results.check(record, run, {**hashes, what: "z"})


def test_a_slope_of_many_digits_keeps_its_scores(tmp_path: Path, scored: list[Any]) -> None:
    run = dataclasses.replace(run_of(tmp_path, "ll-r@5/5"), slopes=(1.23456789,))
    record = execute(run, setting_of(tmp_path))
    assert results.read(str(tmp_path), run.name) == record
    assert results.is_done(record, run, "test", "first")
    assert 1.23456789 in record.scores


def test_hashes_are_of_images_and_labels(squares: Path) -> None:
    dataset = Dataset.open(squares)
    hashes = results.hashes_of(dataset)
    assert hashes["images of train"] == dataset.shards_digest("train")
    (name,) = dataset.manifest.labels
    assert hashes[f"labels {name} of test"] == dataset.manifest.labels[name].splits["test"].sha256


def test_a_failure_keeps_the_scores_of_before(
    tmp_path: Path, scored: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, "ll-r@5/5")
    setting = setting_of(tmp_path)
    before = execute(run, setting)

    def fail(config: Any) -> None:
        raise InputError("the bucket is away", fix="wait")

    monkeypatch.setattr(pipeline.evaluation.run, "evaluate", fail)
    after = execute(dataclasses.replace(run, slopes=(3.0, 5.0)), setting)
    assert (after.status, after.scores) == ("failed", before.scores)
    assert results.read(str(tmp_path), run.name) == after
    other = execute(run, dataclasses.replace(setting, labels="second"))
    assert (other.status, other.scores) == ("failed", {})


def test_a_line_for_every_run_fits_the_terminal(tmp_path: Path) -> None:
    run = run_of(tmp_path, "ll-r:delta_rel=0.123456789,image_size=64,epochs=12@5/5")
    means = {"all": 0.7123}
    record = Record(
        status="finished",
        config={},
        split="test",
        labels="first",
        scores={1.0: {"all": 0.69}, 5.0: means},
        seconds=130,
    )
    other = run_of(tmp_path, "an@1/1")
    lines = RunLines([run, other], 1, lambda name: record if name == run.name else None)
    lines.ended(run.name)
    line = lines.line(run.name)
    assert line.endswith("mAP 71.23 (off 69.00), 2:10, 2:10 left")
    assert line.startswith("1/2 ll-r")
    assert len(line) <= 80
    lines.ended(other.name)
    assert lines.line(other.name) == f"2/2 {other.name}: its process died"


def test_a_line_for_every_trial_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = TrialLines(3)
    values = {"delta_rel": 0.1234, "alpha": 4.321}
    lines.ended("trial-000", Curve(status="finished", values=values, scores={1: 0.5, 2: 0.75}))
    lines.ended("trial-001", Curve(status="stopped", values=values, scores={1: 0.25}))
    lines.ended("trial-002", Curve(status="diverged", values=values))
    first, second, third = capsys.readouterr().err.splitlines()
    assert "mAP 75.00, best 75.00" in first
    assert "mAP 25.00 after epoch 1, best 75.00" in second
    assert third.endswith(": diverged, best 75.00")
    assert max(map(len, (first, second, third))) <= 80
