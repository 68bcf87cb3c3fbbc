"""An evaluation from its command to its run in MLflow, without Ray."""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.cluster import checkpoints, session, tasks
from pipeline.config.commands import EvaluateConfig
from pipeline.evaluation import publish, record, run
from pipeline.evaluation.bootstrap import MEANS
from pipeline.evaluation.references import Baseline
from pipeline.evaluation.run import Evaluation, evaluate, published, report
from pipeline.tracking import runs, writer
from pipeline.tracking.client import mlflow_client
from sharding.classes import ClassTable
from sharding.errors import InputError
from tests.support.models import write_checkpoint


def in_this_process(work: Callable[[Any], Any], items: Sequence[Any], **_: object) -> Iterator[Any]:
    """What `cluster.run_tasks` does, the last task first: the order of answers is nobody's."""
    return map(work, reversed(items))


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A checkpoint, a dataset at a URL, an evaluation of them, and a database for the runs."""

    config: EvaluateConfig
    found: Evaluation
    run_id: str

    def changed(self, **options: Any) -> EvaluateConfig:
        return dataclasses.replace(self.config, **options)

    def record(self, found: Evaluation | None = None, **options: Any) -> str:
        config, found = self.changed(**options), found or self.found
        return record.record(found, config, config.checkpoint, report(found, config))

    def statuses(self) -> list[str]:
        """Of all runs, the newest first."""
        client = mlflow_client()
        experiment = client.get_experiment_by_name("openimages-v3").experiment_id
        return [run.info.status for run in client.search_runs([experiment])]


@pytest.fixture(scope="module")
def desk(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("record")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # where datasets from a URL are copied to
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setattr(session, "shares", lambda workers: (workers or 1, 0.0, 1))
        patch.setattr(tasks, "run_tasks", in_this_process)
        checkpoint = str(write_checkpoint(folder / "checkpoint", squares))
        config = EvaluateConfig(checkpoint=checkpoint, dataset=squares.as_uri(), batch_size=8)
        found = evaluate(config, checkpoint)
        run_id = record.record(found, config, checkpoint, report(found, config))
        yield Desk(config=config, found=found, run_id=run_id)


def run_of(run_id: str) -> Any:
    return mlflow_client().get_run(run_id)


def artifact(run_id: str, path: str, folder: Path) -> Path:
    return Path(runs.download(run_id, path, str(folder)))


def test_a_dataset_at_a_url_is_evaluated_and_named_by_it(desk: Desk, squares: Path) -> None:
    assert desk.found.maps is not None
    assert desk.found.maps.attributions.counts_H.sum() > 0
    run = run_of(desk.run_id)
    assert run.info.status == "FINISHED"
    (read,) = run.inputs.dataset_inputs
    assert read.dataset.name == f"{squares.name}/first/test"
    assert f"{desk.config.dataset}/labels/first/test.parquet" in read.dataset.source


def test_run_and_files_say_what_they_are_of(desk: Desk, tmp_path: Path) -> None:
    about = {
        "rule": "boostlu",
        "labels": "first",
        "split": "test",
        "checkpoint": desk.config.checkpoint,
    }
    tags = run_of(desk.run_id).data.tags
    assert about.items() <= tags.items()
    assert tags["code_hash"] == session.code_hash()
    assert tags["classes_sha256"] == desk.found.classes.sha256
    for name in ("per_class.parquet", "scores.parquet"):
        schema = pq.read_schema(artifact(desk.run_id, f"eval/{name}", tmp_path))
        found = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        assert about.items() <= found.items()


def test_what_is_stored_is_what_is_told(desk: Desk, tmp_path: Path) -> None:
    config = desk.changed(against=desk.run_id, intervals=5)
    found = evaluate(config, config.checkpoint)
    told = report(found, config)
    run_id = record.record(found, config, config.checkpoint, told)
    assert f"this run minus {desk.run_id}" in told.terminal()
    markdown = artifact(run_id, "eval/summary.md", tmp_path).read_text()
    assert markdown == told.markdown()
    assert markdown in run_of(run_id).data.tags["mlflow.note.content"]
    stored = json.loads(artifact(run_id, "eval/summary.json", tmp_path).read_text())
    assert stored == json.loads(json.dumps(told.as_json()))
    assert list(stored["BoostLU on"]["intervals_95"]) == list(MEANS)
    differences = stored["difference"]["means"]
    assert {found["delta"] for found in differences.values()} <= {0.0, None}  # the same checkpoint
    assert differences["all"]["p"] == 1.0


def test_another_evaluation_is_found_by_run_and_by_path(desk: Desk, tmp_path: Path) -> None:
    by_run = Baseline.read(desk.run_id)
    folder = artifact(desk.run_id, "eval", tmp_path)
    by_path = Baseline.read(str(folder / "scores.parquet"))
    for rival in (by_run, by_path):
        assert len(rival.scores.labels_E) == len(desk.found.scores.labels_E)
        (counted,) = rival.attributions.values()
        assert np.array_equal(counted.counts_H, desk.found.maps.attributions.counts_H)
    (folder / "attribution.json").write_text("{}")
    with pytest.raises(InputError, match=r"attribution\.json: no attribution scores of ours"):
        Baseline.read(by_path.name)
    (folder / "attribution.json").unlink()
    assert Baseline.read(by_path.name).attributions == {}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"against": "nope"}, "run 'nope' has no eval/scores.parquet"),
        ({"boxes": "/nowhere.csv"}, "no table of boxes"),
        ({"split": "nope"}, "no split 'nope'"),
        ({"labels": "nope"}, "no labels 'nope'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_scored(
    desk: Desk, options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tasks, "run_tasks")
    config = desk.changed(**options)
    with pytest.raises(InputError, match=told):
        evaluate(config, config.checkpoint)


def test_an_evaluation_of_another_split_is_no_rival(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tasks, "run_tasks")
    config = desk.changed(against=desk.run_id, split="validation")
    with pytest.raises(InputError, match="96 of 96 scores are of other images"):
        evaluate(config, config.checkpoint)


def test_an_image_that_one_run_could_not_read_costs_the_comparison_alone(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    rival = Baseline.read(desk.run_id)
    fewer = {name: values[1:] for name, values in vars(desk.found.scores).items()}
    scores = dataclasses.replace(desk.found.scores, **fewer)
    found = dataclasses.replace(desk.found, scores=scores, rival=rival)
    assert report(found, desk.config).comparison is None
    assert f"no comparison with {desk.run_id}: " in capsys.readouterr().out


def test_the_papers_stand_beside_their_own_test_split_alone(desk: Desk) -> None:
    mids = [f"/m/{index}" for index in range(5000)]
    classes = ClassTable.build(mids, mids, np.arange(5000), np.arange(5000))
    found = dataclasses.replace(desk.found, classes=classes)
    rows = published(found, "test")
    assert [row.method for row in rows] == ["LL-R", "LL-R+BoostLU"]
    assert not published(found, "validation")
    assert not published(dataclasses.replace(found, release="v4"), "test")
    assert not published(desk.found, "test")


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_recording_that_breaks_off_is_closed(
    desk: Desk, error: BaseException, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(publish, "evaluation", broken)
    before = desk.statuses()
    with pytest.raises(type(error)):
        desk.record()
    assert desk.statuses() == [status, *before]


def test_the_table_is_told_before_mlflow_fails_and_the_exit_code_says_to_repeat(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setattr(checkpoints, "best_of_run", lambda location: location)
    monkeypatch.setattr(run, "evaluate", lambda config, checkpoint: desk.found)
    monkeypatch.setattr(record, "_explained", lambda *_: [])
    monkeypatch.setattr(writer.RunWriter, "flush", lambda self: 3)
    job = Path(__file__).parents[3] / "jobs" / "evaluate_openimages.py"
    options = ("--checkpoint", desk.config.checkpoint, "--dataset", desk.config.dataset)
    monkeypatch.setattr(sys, "argv", [str(job), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(job), run_name="__main__")
    assert ended.value.code == 75
    said = capsys.readouterr()
    assert "BoostLU on" in said.out
    assert "MLflow has not taken 3 items" in said.err
    assert desk.statuses()[0] == "FAILED"
