"""An evaluation from its command to its run in MLflow, without Ray."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.cluster import session, tasks
from pipeline.config.commands import EvaluateConfig
from pipeline.data import dali_index
from pipeline.evaluation import figures, publish, record, run
from pipeline.evaluation.metrics import MEANS
from pipeline.evaluation.references import Baseline, published_beside
from pipeline.evaluation.run import Evaluation, Subject, evaluate, evaluate_part, make_report
from pipeline.evaluation.scores import Scores
from pipeline.inference import locate, mlflow_model
from pipeline.models import operating_points
from pipeline.tables import percent, spaced
from pipeline.tracking import runs, writer
from pipeline.tracking.client import mlflow_client
from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.pipeline.evaluation.entries import reordered
from tests.support.models import write_checkpoint


def in_this_process(work: Callable[[Any], Any], items: Sequence[Any], **_: object) -> Iterator[Any]:
    """What `cluster.run_tasks` does, the last task first: the order of answers is nobody's."""
    return map(work, reversed(items))


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """An evaluation of a checkpoint on a dataset at a URL, and its run."""

    config: EvaluateConfig
    evaluation: Evaluation
    run_id: str

    def changed(self, **options: Any) -> EvaluateConfig:
        return dataclasses.replace(self.config, **options)


def statuses() -> list[str]:
    """Of all runs, the newest first."""
    client = mlflow_client()
    experiment = client.get_experiment_by_name("openimages-v3").experiment_id
    return [run.info.status for run in client.search_runs([experiment])]


@pytest.fixture(scope="module")
def recorded(
    squares: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("record")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # where datasets from a URL are copied to
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, folder)}")
        patch.setattr(session, "connect", lambda: None)
        patch.setattr(session, "shares", lambda workers, *_: (workers or 1, 0.0, 1))
        patch.setattr(tasks, "run_tasks", in_this_process)
        checkpoint = str(write_checkpoint(folder / "checkpoint", squares))
        config = EvaluateConfig(checkpoint=checkpoint, dataset=squares.as_uri(), batch_size=8)
        evaluation = evaluate(config)
        yield Recorded(config=config, evaluation=evaluation, run_id=record.record(evaluation))


def run_of(run_id: str) -> Any:
    return mlflow_client().get_run(run_id)


def artifact(run_id: str, path: str, folder: Path) -> Path:
    return Path(runs.download(run_id, path, str(folder)))


def test_a_dataset_at_a_url_is_evaluated_and_named_by_it(recorded: Recorded, squares: Path) -> None:
    assert recorded.evaluation.maps is not None
    assert recorded.evaluation.maps.attributions.counts_H.sum() > 0
    run = run_of(recorded.run_id)
    assert run.info.status == "FINISHED"
    assert next(iter(run.data.metrics)) == "test/mAP/all", "what MLflow compares by at first"
    (read,) = run.inputs.dataset_inputs
    assert read.dataset.name == f"{squares.name}/first/test"
    assert f"{recorded.config.dataset}/labels/first/test.parquet" in read.dataset.source


def test_a_node_copies_the_images_of_the_split_to_the_cache_that_is_named(
    recorded: Recorded, squares: Path, tmp_path: Path
) -> None:
    config = recorded.changed(cache=str(tmp_path / "cache"), cache_gb=1.0, attribution=0)
    evaluate(config)
    (images,) = (tmp_path / "cache").glob("*/images")
    names = {Path(shard.path).name for shard in Dataset.open(squares).shards("test")}
    assert {path.name for path in images.glob("*.tar")} == names
    with pytest.raises(InputError, match=r"which holds .* of 0\.0.*raise --cache-gb"):
        evaluate(dataclasses.replace(config, cache=str(tmp_path / "small"), cache_gb=1e-6))


def test_the_cache_is_the_trainings_unless_another_is_named(
    recorded: Recorded, tmp_path: Path
) -> None:
    trained = shutil.copytree(recorded.config.checkpoint, tmp_path / "checkpoint")
    meta = json.loads((trained / "meta.json").read_text())
    meta["config"] |= {"cache": str(tmp_path / "trained"), "cache_gb": 7.0}
    (trained / "meta.json").write_text(json.dumps(meta))
    opened = Subject.open(recorded.changed(checkpoint=str(trained)))
    assert (opened.config.cache, opened.config.cache_gb) == (str(tmp_path / "trained"), 7.0)
    own = recorded.changed(checkpoint=str(trained), cache=str(tmp_path / "own"), cache_gb=1.0)
    opened = Subject.open(own)
    assert (opened.config.cache, opened.config.cache_gb) == (str(tmp_path / "own"), 1.0)


def test_a_part_opens_its_split_once_and_the_first_one_has_the_pictures(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    check = dali_index.refuse_other_tar

    def watched(tar: Path, index: Path, size: int) -> None:
        opened.append(tar.name)
        check(tar, index, size)

    monkeypatch.setattr(dali_index, "refuse_other_tar", watched)
    config = recorded.changed(labels="first")
    parts = [evaluate_part(config, config.checkpoint, None, 2, 1, part) for part in range(2)]
    assert opened == 2 * ["test-000000.tar", "test-000001.tar"]
    assert [len(part.explained) for part in parts] == [4, 0]
    assert all(part.maps is not None and part.maps.attributions.counts_H.any() for part in parts)
    joined = Scores.concatenate([part.scores for part in parts])
    assert joined.to_parquet() == recorded.evaluation.scores.to_parquet()


def test_any_number_of_workers_in_any_order_gives_the_same_bits(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(shutil.copytree(recorded.config.checkpoint, tmp_path / "checkpoint"))
    own = {"checkpoint": checkpoint, "split": "validation", "thresholds": True, "attribution": 0}

    def bits(workers: int, order: Callable[[Sequence[int]], Iterable[int]]) -> list[bytes | str]:
        monkeypatch.setattr(tasks, "run_tasks", lambda work, items, **_: map(work, order(items)))
        found = evaluate(recorded.changed(**own, batch_size=2, workers=workers))
        assert found.decisions is not None
        columns = vars(found.scores).values()
        return [*(column.tobytes() for column in columns), found.decisions.points.to_json()]

    in_order = bits(1, iter)
    assert bits(1, reversed) == in_order
    for seed in range(2):
        draw = np.random.default_rng(seed)
        assert bits(4, lambda items, draw=draw: draw.permutation(items).tolist()) == in_order


def test_run_and_files_say_what_they_are_of(recorded: Recorded, tmp_path: Path) -> None:
    about = {
        "rule": "boostlu",
        "labels": "first",
        "split": "test",
        "checkpoint": recorded.config.checkpoint,
        "classes_sha256": recorded.evaluation.subject.dataset.classes.sha256,
    }
    tags = run_of(recorded.run_id).data.tags
    assert about.items() <= tags.items()
    assert tags["code_hash"] == session.code_hash()
    params = run_of(recorded.run_id).data.params
    assert params["cpus_per_worker"] == "1", "which it was given: the last bits depend on it"
    for name in ("per_class.parquet", "scores.parquet"):
        schema = pq.read_schema(artifact(recorded.run_id, f"eval/{name}", tmp_path))
        found = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        assert about.items() <= found.items()


@pytest.mark.parametrize("uri", ["runs:/{run_id}", "models:/{model_id}"])
def test_a_checkpoint_in_mlflow_is_resolved_once(recorded: Recorded, uri: str) -> None:
    checkpoint = recorded.config.checkpoint
    model_id = mlflow_model.log_model(recorded.run_id, checkpoint, copy=False)
    named = recorded.changed(checkpoint=uri.format(run_id=recorded.run_id, model_id=model_id))
    evaluation = evaluate(named)
    assert evaluation.subject.checkpoint == checkpoint
    assert evaluation.scores.to_parquet() == recorded.evaluation.scores.to_parquet()


def test_another_slope_scores_the_same_weights(
    recorded: Recorded, squares: Path, tmp_path: Path
) -> None:
    own = write_checkpoint(tmp_path / "checkpoint", squares, alpha_infer=3.0)
    expected = evaluate(recorded.changed(checkpoint=str(own)))
    found = evaluate(recorded.changed(alpha_infer=3.0))
    assert found.scores.to_parquet() == expected.scores.to_parquet()
    assert found.scores.to_parquet() != recorded.evaluation.scores.to_parquet()
    assert run_of(record.record(found)).info.run_name == "test first epoch 1 alpha 3"


def test_what_is_stored_is_what_is_told(recorded: Recorded, tmp_path: Path) -> None:
    config = recorded.changed(against=recorded.run_id, intervals=5)
    evaluation = evaluate(config)
    output, run_id = evaluation.report, record.record(evaluation)
    assert f"this run minus {recorded.run_id}" in output.terminal()
    markdown = artifact(run_id, "eval/summary.md", tmp_path).read_text()
    assert markdown == output.markdown()
    description = run_of(run_id).data.tags["mlflow.note.content"]
    assert description == spaced(publish.card(output, evaluation.subject.meta, "test"))
    mean = percent(output.summaries["BoostLU on"].map_all)
    assert f"mAP on test, epoch 1: **{mean}** with BoostLU" in description.splitlines()[2]
    assert "### Limits" in description
    stored = json.loads(artifact(run_id, "eval/summary.json", tmp_path).read_text())
    assert stored == json.loads(json.dumps(output.as_json()))
    assert list(stored["BoostLU on"]["intervals_95"]) == list(MEANS)
    differences = stored["difference"]["means"]
    assert {found["delta"] for found in differences.values()} <= {0.0, None}  # the same checkpoint
    assert differences["all"]["p"] == 1.0


def test_another_evaluation_is_found_by_run_and_by_path(recorded: Recorded, tmp_path: Path) -> None:
    by_run = Baseline.read(recorded.run_id)
    folder = artifact(recorded.run_id, "eval", tmp_path)
    by_path = Baseline.read(str(folder / "scores.parquet"))
    for baseline in (by_run, by_path):
        assert len(baseline.scores.labels_E) == len(recorded.evaluation.scores.labels_E)
        (counted,) = baseline.attributions.values()
        assert np.array_equal(counted.counts_H, recorded.evaluation.maps.attributions.counts_H)
    for broken in ("{}", "[", json.dumps({"run": "a", "counts": [1], "edges": [0, 1]})):
        (folder / "attribution.json").write_text(broken)
        with pytest.raises(InputError, match=r"attribution\.json: not a file of attribution"):
            Baseline.read(by_path.name)
    (folder / "attribution.json").unlink()
    assert Baseline.read(by_path.name).attributions == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"against": "nope"}, "run 'nope' has no eval/scores.parquet"),
        ({"boxes": "/nowhere.csv"}, "no table of boxes"),
        ({"split": "nope"}, "no split 'nope'"),
        ({"labels": "nope"}, "no labels 'nope'"),
        ({"register": "m", "alpha_infer": 3.0}, "served with its own slope, 5"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_scored(
    recorded: Recorded, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tasks, "run_tasks")
    with pytest.raises(InputError, match=message):
        evaluate(recorded.changed(**options))


def test_damaged_thresholds_are_told_before_anything_is_scored(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tasks, "run_tasks")
    checkpoint = shutil.copytree(recorded.config.checkpoint, tmp_path / "checkpoint")
    (checkpoint / operating_points.FILE).write_text("{")
    with pytest.raises(InputError, match="thresholds are damaged"):
        evaluate(recorded.changed(checkpoint=str(checkpoint)))


def test_a_downloaded_copy_is_refused_where_nodes_have_just_joined(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = ["head"]

    def shares(*asked: float | None) -> tuple[int, float, int]:
        nodes.append("worker")  # has been waited for
        return 1, 0.0, 1

    monkeypatch.setattr(session, "nodes", lambda: nodes)
    monkeypatch.setattr(session, "shares", shares)
    monkeypatch.setattr(locate, "is_copy", lambda directory: True)
    with pytest.raises(InputError, match="downloaded to this machine, which the others do not"):
        evaluate(recorded.config)


def test_scores_are_kept_where_the_checkpoint_takes_no_thresholds(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "write_bytes", full)
    checkpoint = shutil.copytree(recorded.config.checkpoint, tmp_path / "checkpoint")
    evaluation = evaluate(
        recorded.changed(checkpoint=str(checkpoint), split="validation", thresholds=True)
    )
    with pytest.raises(InputError, match=r"thresholds\.json: thresholds are not kept \(.*No space"):
        record.record(evaluation)
    client = mlflow_client()
    experiment = client.get_experiment_by_name("openimages-v3").experiment_id
    newest = client.search_runs([experiment])[0]
    assert newest.info.status == "FAILED"
    assert {"validation/mAP/all", "validation/f1_own/macro"} <= set(newest.data.metrics)


def test_thresholds_bring_no_removed_checkpoint_back(recorded: Recorded, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(recorded.config.checkpoint, tmp_path / "checkpoint")
    config = recorded.changed(checkpoint=str(checkpoint), thresholds=True, split="validation")
    subject = run.Subject.open(config)
    shutil.rmtree(checkpoint)
    points = operating_points.OperatingPoints(
        criterion="", source="", classes_sha256="", thresholds=[0.0], temperatures=[1.0]
    )
    refusal = run._keep(points, subject)
    assert "has removed this checkpoint for a better one" in str(refusal)
    assert not checkpoint.exists()


def test_an_evaluation_of_another_split_is_no_baseline(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tasks, "run_tasks")
    with pytest.raises(InputError, match="96 of 96 scores are of other images"):
        evaluate(recorded.changed(against=recorded.run_id, split="validation"))


def test_an_image_that_one_run_could_not_read_costs_the_comparison_alone(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    found = recorded.evaluation
    subject = dataclasses.replace(found.subject, baseline=Baseline.read(recorded.run_id))
    fewer = reordered(found.scores, np.arange(1, len(found.scores.labels_E)))
    report = make_report(subject, fewer, found.per_class, found.maps)
    assert report.comparison is None
    assert f"no comparison with {recorded.run_id}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("release", "split", "num_classes", "methods"),
    [
        ("v3", "test", 5000, ["LL-R", "LL-R+BoostLU"]),
        ("v3", "validation", 5000, []),
        ("v4", "test", 5000, []),
        ("v3", "test", 8, []),
    ],
)
def test_the_papers_stand_beside_their_own_test_split_alone(
    release: str, split: str, num_classes: int, methods: list[str]
) -> None:
    rows = published_beside("ll-r", release=release, split=split, num_classes=num_classes)
    assert [row.method for row in rows] == methods


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_recording_that_breaks_off_is_closed(
    recorded: Recorded, error: BaseException, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(publish, "evaluation", broken)
    before = statuses()
    with pytest.raises(type(error)):
        record.record(recorded.evaluation)
    assert statuses() == [status, *before]


def test_numbers_are_kept_where_pictures_and_models_fail(
    recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise InputError("it does not answer")

    for owner, name in (
        (figures, "group_bars"),
        (figures, "precision_recall"),
        (publish, "maps"),
        (mlflow_model, "find"),
    ):
        monkeypatch.setattr(owner, name, broken)
    with pytest.raises(InputError, match="it does not answer"):
        record.record(recorded.evaluation)
    said = capsys.readouterr().out
    for what in ("group chart", "precision-recall chart", "maps"):
        assert f"{what} left out: InputError: it does not answer" in said
    client = mlflow_client()
    newest = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], order_by=["start_time DESC"]
    )[0]
    assert newest.data.metrics["test/mAP/all"] == pytest.approx(
        run_of(recorded.run_id).data.metrics["test/mAP/all"]
    )
    kept = {file.path for file in client.list_artifacts(newest.info.run_id, "eval")}
    assert {"eval/per_class.parquet", "eval/summary.md", "eval/per_class_ap.json"} <= kept


def test_the_table_is_told_though_mlflow_fails_and_the_exit_code_says_to_repeat(
    recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "connect", lambda: None)
    monkeypatch.setattr(run, "evaluate", lambda config: recorded.evaluation)
    monkeypatch.setattr(writer.RunWriter, "flush", lambda self: 3)
    job = Path(__file__).parents[3] / "jobs" / "evaluate_openimages.py"
    options = ("--checkpoint", recorded.config.checkpoint, "--dataset", recorded.config.dataset)
    monkeypatch.setattr(sys, "argv", [str(job), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(job), run_name="__main__")
    assert ended.value.code == 75
    said = capsys.readouterr()
    assert "BoostLU on" in said.out
    assert "MLflow has not taken 3 items" in said.err
    assert statuses()[0] == "FAILED"
