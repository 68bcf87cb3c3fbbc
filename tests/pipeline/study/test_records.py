"""A study's records are of its trainings, in one precision on as many CPUs; MLflow has the last."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.cluster import session, trials
from pipeline.cluster.placement import Node
from pipeline.config import precision
from pipeline.config.sections import Precision
from pipeline.config.study import StudyConfig
from pipeline.study import plan, results, run, settle
from pipeline.study.plan import Plan, PlannedRun
from pipeline.study.results import Record
from pipeline.tracking import client
from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.support.models import BACKBONE


def planned_on(squares: Path, output: Path, *rows: str, **options: Any) -> tuple[StudyConfig, Plan]:
    given = {"seeds": 1, "train": (f"backbone={BACKBONE}", "workers=1"), **options}
    config = StudyConfig(dataset=str(squares), output=str(output), rows=rows, **given)
    return run.prepare(config)


def written(config: StudyConfig, each: PlannedRun, **others: Any) -> Record:
    """Write the record of a run that has its scores."""
    scores = {slope: {"all": 0.5} for slope in (1.0, *each.slopes)}
    about = {"status": "finished", "split": "test", "labels": "first", "scores": scores, **others}
    record = Record(config=each.config.to_dict(), **about)
    results.write(config.output, each, record)
    return record


@pytest.mark.parametrize(
    ("before", "scores"),
    [
        ({"split": "validation"}, {}),
        ({}, {1.0: {"all": 0.5}}),
        ({"status": "failed", "reason": "disk full"}, {1.0: {"all": 0.5}}),
    ],
    ids=["another-split", "a-slope-less", "failed-otherwise"],
)
def test_a_run_whose_process_died_is_not_what_an_earlier_command_found(
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, Any],
    scores: dict[float, dict[str, float]],
) -> None:
    config, planned = planned_on(squares, tmp_path / "study", "an@1/5", "ll-r@1/5")
    died, done = planned.runs
    written(config, dataclasses.replace(died, slopes=()), **before)

    def train(work: Any, left: Any, *about: Any, on_end: Any, **more: Any) -> None:
        written(config, done)
        on_end(done.name, False)
        on_end(died.name, True)

    monkeypatch.setattr(trials, "run", train)
    monkeypatch.setattr(session, "connect", lambda **options: None)
    monkeypatch.setattr(session, "nodes", lambda: [Node(1, 0)])
    found = run._train(config, planned, planned.runs, "parent")
    other, lost = (found[each.name] for each in (done, died))
    assert other is not None
    assert lost is not None
    assert other.status == "finished"
    assert lost == results.read(config.output, died.name)
    assert (lost.status, lost.scores) == ("failed", scores)
    assert "its process died" in lost.reason
    hashes = results.hashes_of(Dataset.open(squares))
    assert lost.data == results.part_of(hashes, "first", "test", "first")


def test_all_runs_of_a_study_are_in_the_precision_that_the_first_began_with(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def precisions() -> set[str]:
        options = {"train": (f"backbone={BACKBONE}", "workers=1", "precision=auto"), "seeds": 2}
        config, planned = planned_on(squares, tmp_path / "study", "an", "ll-r", **options)
        place, first = config.output, planned.runs[0].config
        storage.write_json(f"{place}/runs/{first.name}/config.json", first.to_dict())
        return {each.config.optimizer.precision for each in planned.runs}

    monkeypatch.setattr(precision, "multiplies_bf16", lambda cpu_info: True)
    assert precisions() == {"bf16"}
    monkeypatch.setattr(precision, "multiplies_bf16", lambda cpu_info: False)
    assert precisions() == {"bf16"}
    shutil.rmtree(tmp_path / "study")
    assert precisions() == {"fp32"}


@pytest.mark.parametrize("known", ["run", "result"])
def test_all_runs_of_a_study_have_the_cpus_that_the_first_began_with(
    squares: Path, tmp_path: Path, known: str
) -> None:
    """The last run alone would have both CPUs of a node, and other weights for it."""
    nodes = [Node(2, 0)]
    config, planned = planned_on(squares, tmp_path / "study", "an@1/1", "ll-r@1/1")

    def shared(nodes: list[Node], at_once: int) -> tuple[int, list[int | None]]:
        kept = [results.read(config.output, each.name) for each in planned.runs]
        configs = [each.config for each in planned.runs]
        at_once, settled = settle.side_by_side(nodes, configs, kept, at_once)
        return at_once, [each.cpus_per_worker for each in settled]

    assert shared(nodes, 1) == (1, [2, 2]), "nothing has begun"
    assert shared(nodes, 2) == (2, [1, 1])
    first = dataclasses.replace(planned.runs[0].config, cpus_per_worker=1)
    if known == "run":
        storage.write_json(f"{config.output}/runs/{first.name}/config.json", first.to_dict())
    else:
        written(config, dataclasses.replace(planned.runs[0], config=first))
    assert shared(nodes, 1) == (1, [1, 1]), "the one that is left"
    assert shared([Node(8, 2)], 1) == (1, [8, 8]), "GPUs compute the same with any"


def test_cpus_that_a_row_asks_for_are_its_own_and_the_most_are_the_others(
    squares: Path, tmp_path: Path
) -> None:
    rows = ("an@1/1", "an:cpus_per_worker=3@1/1", "an:cpus_per_worker=2@1/1")
    _, planned = planned_on(squares, tmp_path / "study", *rows)
    configs = [each.config for each in planned.runs]
    at_once, settled = settle.side_by_side([Node(8, 0)], configs, [None] * 3, 8)
    assert (at_once, [each.cpus_per_worker for each in settled]) == (2, [3, 3, 2])


def test_a_precision_that_a_row_asks_for_is_its_own(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda cpu_info: False)
    options = {"train": (f"backbone={BACKBONE}", "workers=1", "precision=auto")}
    for _ in range(2):
        config, planned = planned_on(
            squares, tmp_path / "study", "an:precision=bf16@1/1", "an@1/1", **options
        )
        assert [each.config.optimizer.precision for each in planned.runs] == ["bf16", "fp32"]
        for each in planned.runs:
            written(config, each)
            place = f"{config.output}/runs/{each.name}/config.json"
            storage.write_json(place, each.config.to_dict())


def test_kept_results_say_the_precision_where_the_runs_are_gone(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda cpu_info: False)
    options = {"train": (f"backbone={BACKBONE}", "workers=1", "precision=auto")}
    rows = ("an@1/1", "ll-r@1/1")
    config, planned = planned_on(squares, tmp_path / "study", *rows, **options)
    first = planned.runs[0]
    optimizer = dataclasses.replace(first.config.optimizer, precision="bf16")
    kept = dataclasses.replace(first.config, optimizer=optimizer)
    written(config, dataclasses.replace(first, config=kept))
    _, again = planned_on(squares, tmp_path / "study", *rows, **options)
    assert [each.config.optimizer.precision for each in again.runs] == ["bf16"] * 2
    run.read_records(config, again)


def test_a_record_from_before_the_precision_was_settled_is_taken(
    squares: Path, tmp_path: Path
) -> None:
    (each,) = planned_on(squares, tmp_path / "study", "an@1/1")[1].runs
    assert each.config.optimizer.precision == "fp32"
    named: dict[Precision, bool] = {"auto": True, "fp32": True, "bf16": False}
    for name, fits in named.items():
        optimizer = dataclasses.replace(each.config.optimizer, precision=name)
        other = dataclasses.replace(each.config, optimizer=optimizer)
        if fits:
            results.refuse_changes(each.name, other, each.config)
        else:
            with pytest.raises(InputError, match="precision was bf16, is fp32"):
                results.refuse_changes(each.name, other, each.config)


def test_files_of_a_row_are_found_from_anywhere(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").touch()
    options = {"train": (f"backbone={BACKBONE}", "workers=1", "weights=w.pth")}
    _, planned = planned_on(squares, tmp_path / "study", "p-asl:prior=p.parquet", **options)
    (each,) = planned.runs
    assert each.config.model.weights == str(tmp_path / "w.pth")
    assert f"prior={tmp_path}/p.parquet" in each.config.method_options


def test_a_repeated_study_replaces_its_means_in_mlflow(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    ages = iter([5, 9])
    monkeypatch.setattr(client, "age_of", lambda run_id: next(ages))
    found = []
    for mean in (0.25, 0.75):
        config, planned = planned_on(squares, tmp_path / "study", "an@1/1")
        written(config, planned.runs[0], scores={1.0: {"all": mean}})
        run.run(config, planned)
        mlflow = client.mlflow_client()
        experiment = mlflow.get_experiment_by_name("openimages-v3").experiment_id
        (parent,) = mlflow.search_runs([experiment])
        found.append(parent.data.metrics["mAP/an 1/1"])
    assert found == [0.25, 0.75]


def test_a_study_of_another_cluster_in_the_same_place_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    output, ours = tmp_path / "studies/demo", tmp_path / "ours"
    config = StudyConfig(dataset="/d", output=str(output), rows=("an",), preset="demo", seeds=1)
    planned = plan.plan(config, ("first",), "first")

    def parent() -> str:
        output.mkdir(parents=True, exist_ok=True)
        with run._parent(config, planned) as run_id:
            return run_id

    first = parent()
    output.rename(ours)
    second = parent()
    assert second != first
    assert parent() == second
    output.rename(tmp_path / "theirs")
    ours.rename(output)
    assert parent() == first
