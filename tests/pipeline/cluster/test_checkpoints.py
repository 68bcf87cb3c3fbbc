"""Ray's snapshot of checkpoints: rebuilt where it was cut; what it does not list is removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline import storage
from pipeline.cluster import checkpoints
from pipeline.models import checkpoint
from sharding.errors import InputError

LIST = "checkpoint_manager_snapshot.json"


class Run:
    """A run's directory as Ray leaves it, with checkpoints of nearly nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.list = directory, directory / LIST

    def add(self, second: int, epoch: int, step: int, score: float) -> Path:
        made = self.directory / f"checkpoint_2026-11-24_10-00-{second:02}.123456"
        made.mkdir(parents=True)
        meta = checkpoint.Meta(
            config={},
            epoch=epoch,
            step=step,
            images_seen=0,
            world_size=2,
            classes_sha256="",
            mids=[],
            names=[],
            dataset="",
            dataset_digest="",
            labels="",
            metrics={"score": score, "epoch": float(epoch)},
        )
        checkpoint.save(made, scored={"a": torch.zeros(3)}, training={}, meta=meta)
        for rank in range(2 if step else 0):
            checkpoint.save_rank(made, rank, {})
        return made

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.directory.glob("checkpoint_2*")}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def as_ray_reads_it(run: Run) -> Any:
    from ray.train import Result

    return Result.from_path(str(run.directory))


@pytest.mark.parametrize("left", ["", '{"ray_version":"2', "[]", "{}"])
def test_a_snapshot_that_was_cut_is_rebuilt(run: Run, left: str, capsys) -> None:
    best = run.add(1, epoch=1, step=0, score=0.7)
    run.add(2, epoch=2, step=0, score=0.5)
    latest = run.add(3, epoch=2, step=4, score=-2.0)
    run.list.write_text(left)
    assert checkpoints.latest(str(run.directory)) is None
    checkpoints.repair(str(run.directory))
    assert checkpoints.latest(str(run.directory)) == latest.name
    read = as_ray_reads_it(run)
    assert Path(read.checkpoint.path).name == latest.name
    assert len(read.best_checkpoints) == 3
    assert checkpoints.best_of_run(str(run.directory)) == str(best)
    output = capsys.readouterr()
    assert "is damaged: rebuilt from 3 checkpoints" in output.out + output.err


def test_the_snapshot_has_the_fields_of_rays_own_model(run: Run) -> None:
    from ray.train.v2._internal.execution.checkpoint import checkpoint_manager as ray_own

    name = run.add(1, epoch=1, step=0, score=0.5).name
    made = checkpoints._snapshot(str(run.directory), [name], {})
    assert made.keys() == ray_own._CheckpointManagerState.model_fields.keys() - {"ray_version"}
    (result,) = made["checkpoint_results"]
    assert result.keys() == ray_own._TrainingResultState.model_fields.keys()
    assert ray_own._CheckpointManagerState(**made).current_report_index == 1


def test_of_equal_scores_the_latest_is_the_best_as_ray_has_it(run: Run) -> None:
    for second in (1, 2, 3):
        run.add(second, epoch=second, step=0, score=0.5)
    run.list.write_text("")
    checkpoints.repair(str(run.directory))
    listed = json.loads(run.list.read_text())
    assert listed["checkpoint_report_indices"] == [0, 1, 2]
    assert listed["current_report_index"] == 3


@pytest.mark.parametrize("file", ["model.pt", "training.pt", "rank-1.pt", "meta.json"])
@pytest.mark.parametrize("how", ["cut", "missing"])
def test_half_an_upload_is_not_made_a_checkpoint(run: Run, file: str, how: str) -> None:
    whole = run.add(1, epoch=1, step=0, score=0.5)
    half = run.add(2, epoch=1, step=3, score=-2.0) / file
    half.write_bytes(half.read_bytes()[:-20]) if how == "cut" else half.unlink()
    run.list.write_text("")
    checkpoints.repair(str(run.directory))
    assert Path(as_ray_reads_it(run).checkpoint.path).name == whole.name
    assert run.names == {whole.name}


def test_nothing_is_removed_because_it_could_not_be_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = run.add(1, epoch=1, step=0, score=0.5)
    run.list.write_text("")

    def gone(location: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "open_file", gone)
    with pytest.raises(OSError, match="Input/output"):
        checkpoints.repair(str(run.directory))
    assert run.names == {kept.name}


def test_what_a_whole_list_does_not_have_is_removed(run: Run) -> None:
    known = run.add(1, epoch=1, step=0, score=0.5)
    run.list.write_text("")
    checkpoints.repair(str(run.directory))
    before = run.list.read_bytes()
    run.add(2, epoch=2, step=0, score=0.9)
    mine = run.directory / "checkpoint_2026-mine"
    mine.mkdir()
    checkpoints.repair(str(run.directory))
    assert run.names == {known.name, mine.name}
    assert run.list.read_bytes() == before


def test_a_run_that_has_not_begun_is_left_alone(run: Run) -> None:
    checkpoints.repair(str(run.directory))
    assert not run.directory.exists()


def test_a_run_killed_before_its_first_list_goes_on_from_what_is_whole(run: Run, capsys) -> None:
    half = run.add(1, epoch=0, step=2, score=-2.0)
    (half / "rank-1.pt").unlink()
    checkpoints.repair(str(run.directory))
    assert run.names == set()
    assert not run.list.exists()
    whole = run.add(2, epoch=0, step=4, score=-2.0)
    checkpoints.repair(str(run.directory))
    assert Path(as_ray_reads_it(run).checkpoint.path).name == whole.name
    assert "is missing: rebuilt from 1 checkpoints" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["cut", "file missing", "directory missing"])
def test_a_listed_checkpoint_that_is_damaged_gives_way_to_the_one_before(
    run: Run, how: str, capsys
) -> None:
    best = run.add(1, epoch=1, step=0, score=-2.0)
    before = run.add(2, epoch=2, step=0, score=0.5)
    latest = run.add(3, epoch=3, step=0, score=0.6)
    run.list.write_text("")
    checkpoints.repair(str(run.directory))
    listed = json.loads(run.list.read_text())
    for result in listed["checkpoint_results"]:  # as a validation of its own leaves it
        if result["checkpoint_dir_name"] == best.name:
            result["metrics"]["score"] = 0.9
    run.list.write_text(json.dumps(listed))
    file = latest / "training.pt"
    if how == "directory missing":
        shutil.rmtree(latest)
    elif how == "file missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-30])
    checkpoints.repair(str(run.directory))
    assert Path(as_ray_reads_it(run).checkpoint.path).name == before.name
    assert checkpoints.best_of_run(str(run.directory)) == str(best)
    assert run.names == {best.name, before.name}
    assert f"names {latest.name}, not whole" in capsys.readouterr().out


def test_what_another_version_wrote_is_not_removed(run: Run) -> None:
    kept = run.add(1, epoch=1, step=0, score=0.5)
    meta = json.loads((kept / "meta.json").read_text())
    run.list.write_text("")
    checkpoints.repair(str(run.directory))
    (kept / "meta.json").write_text(json.dumps({**meta, "format": 99, "more": 1}))
    before = run.list.read_bytes()
    checkpoints.repair(str(run.directory))
    assert run.names == {kept.name}
    assert run.list.read_bytes() == before


def test_who_only_reads_is_told_what_mends_it(run: Run) -> None:
    run.add(1, epoch=1, step=0, score=0.5)
    run.list.write_text("")
    with pytest.raises(InputError, match=r"snapshot\.json: .*damaged.*repeat the training"):
        checkpoints.best_of_run(str(run.directory))


def test_the_last_good_checkpoint_is_named_with_the_runs_scheme() -> None:
    result = SimpleNamespace(checkpoint=SimpleNamespace(path="bucket/runs/one/checkpoint_7"))
    output = checkpoints.last_good(result, "s3://bucket/runs/one")
    assert output == "the last good checkpoint is s3://bucket/runs/one/checkpoint_7"


def test_a_run_without_a_checkpoint_says_so() -> None:
    output = checkpoints.last_good(SimpleNamespace(checkpoint=None), "runs/one")
    assert output == "there is no checkpoint yet in runs/one"


class Listed:
    """A run of whose checkpoints the snapshot alone is there, as Ray's own manager writes it."""

    def __init__(self, directory: Path, *metrics: dict[str, float]) -> None:
        self.directory, self.path = str(directory), directory / LIST
        names = [f"checkpoint_{number}" for number in range(len(metrics))]
        results = [
            {"version": 0, "checkpoint_dir_name": name, "metrics": values}
            for name, values in zip(names, metrics, strict=True)
        ]
        ranked = sorted(range(len(names)), key=lambda number: metrics[number]["score"])
        self.state = {
            "ray_version": "as it was",
            "checkpoint_results": [results[number] for number in ranked],
            "checkpoint_report_indices": ranked,
            "latest_checkpoint_result": results[-1],
            "pending_training_results": [],
            "pending_validation_specs": [],
            "current_report_index": len(names),
            "validated_checkpoint_dir_names": [],
            "timed_out_validation_checkpoint_dir_names": [],
            "failed_validation_checkpoint_dir_names": names[:1],
        }
        self.path.write_text(json.dumps(self.state))

    def queued(self, *, latest: bool) -> list[str]:
        """What is still to be validated after the driver has looked at it."""
        checkpoints.queue_validations(self.directory, latest=latest)
        state = json.loads(self.path.read_text())
        assert {**state, **dict.fromkeys(QUEUE)} == {**self.state, **dict.fromkeys(QUEUE)}
        assert state["pending_validation_specs"] == [True] * len(state["pending_training_results"])
        return [result["checkpoint_dir_name"] for result in state["pending_training_results"]]


QUEUE = (
    *("pending_training_results", "pending_validation_specs"),
    "failed_validation_checkpoint_dir_names",
)


def finished(epoch: int, score: float = -2.0) -> dict[str, float]:
    return {"epoch": float(epoch), "score": score}


@pytest.mark.parametrize(
    ("metrics", "latest_too", "without"),
    [
        ([finished(1), finished(2, 0.5), finished(3)], [0, 2], [0]),
        ([finished(1), finished(2), {"score": -2.0}], [0, 1], [0, 1]),
        ([finished(2), finished(1), finished(2)], [1, 2], [1]),
        ([finished(1), finished(1, 0.5)], [], []),
        ([finished(1, -1.0), finished(2, 0.5)], [], []),
        ([{"score": 0.5}, {"score": -2.0}], [], []),
    ],
    ids=["failed", "within an epoch", "in their order", "scored since", "scored", "old"],
)
def test_epochs_without_a_score_are_validated_by_the_next_start(
    tmp_path: Path, metrics: list[dict[str, float]], latest_too: list[int], without: list[int]
) -> None:
    run = Listed(tmp_path, *metrics)
    before = run.path.read_bytes()
    assert run.queued(latest=True) == [f"checkpoint_{number}" for number in latest_too]
    assert checkpoints.awaits_validation(run.directory) == bool(latest_too)
    assert (run.path.read_bytes() == before) == (not latest_too), "written if it says another thing"
    failed = json.loads(run.path.read_text())["failed_validation_checkpoint_dir_names"]
    assert failed == ([] if 0 in latest_too else ["checkpoint_0"])
    # Where the workers validate together, they do so first with what they go on from.
    assert run.queued(latest=False) == [f"checkpoint_{number}" for number in without]


def test_a_run_that_has_not_begun_has_nothing_to_validate(tmp_path: Path) -> None:
    checkpoints.queue_validations(str(tmp_path / "run"), latest=True)
    assert not checkpoints.awaits_validation(str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
