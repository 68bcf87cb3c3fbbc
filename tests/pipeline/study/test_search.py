"""A search draws the same trials for the same command, and chooses by validation alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline.training.train
from pipeline import storage
from pipeline.cluster.checkpoints import SCORE
from pipeline.config.study import StudyConfig
from pipeline.config.train import TrainConfig
from pipeline.study import render, run, search
from pipeline.study.execute import Setting
from pipeline.study.rows import parse_row
from pipeline.study.search import Curve
from pipeline.study.table import failed_trials
from sharding.errors import InputError
from sharding.manifest import Dataset
from sharding.manifest_parts import LabelVersion
from tests.pipeline.study.test_execute import setting_of

SPACE = ("delta_rel=0.02:2:log", "alpha=2:10", "batch_size=8:64:log", "crop=squash|random-resized")


def drawn(output: Path, row: str = "ll-r", **options: Any) -> list[search.Trial]:
    config = StudyConfig(
        dataset="/d",
        output=str(output),
        rows=(row,),
        **{"preset": "demo", "tune": SPACE, "trials": 6, "train": ("workers=1",), **options},
    )
    return search.draw(config, parse_row(row), "first")


def test_values_lie_in_the_space_and_reach_the_training(tmp_path: Path) -> None:
    for trial in drawn(tmp_path, trials=20):
        delta, alpha = trial.values["delta_rel"], trial.values["alpha"]
        assert 0.02 <= delta <= 2
        assert 2 <= alpha <= 10
        assert trial.config.method_options == (f"delta_rel={delta}",)
        model = trial.config.model
        assert (model.alpha_train, model.alpha_infer) == (alpha, alpha)
        assert trial.config.data.batch_size == trial.values["batch_size"]
        assert trial.config.data.crop == trial.values["crop"]
        assert parse_row(trial.row.label).options == trial.row.options


def test_the_same_command_draws_the_same_and_more_trials_begin_with_them(tmp_path: Path) -> None:
    few, many = drawn(tmp_path), drawn(tmp_path, trials=9)
    assert many[:6] == few
    assert len({str(trial.values) for trial in many}) == 9


def test_alpha_is_the_methods_where_it_has_one(tmp_path: Path) -> None:
    (trial,) = drawn(tmp_path, "em", tune=("alpha=0.1:0.2",), trials=1)
    assert trial.config.method_options == (f"alpha={trial.values['alpha']}",)
    assert trial.config.model.alpha_train == 5, "the preset's"


def test_an_option_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="delta_rle"):
        drawn(tmp_path, tune=("delta_rle=1:2",))


def setting(output: Path, **hashes: str) -> Setting:
    named = {what.replace("_", " "): sha256 for what, sha256 in hashes.items()}
    return dataclasses.replace(setting_of(output), hashes=named)


def ended(trials: list[search.Trial], output: Path, scores: dict[int, dict[int, float]]) -> None:
    """Write the file of a search that is over."""
    curves = {
        trial.name: Curve(
            status="finished" if scores.get(trial.number) else "failed",
            values=trial.values,
            scores=scores.get(trial.number, {}),
        )
        for trial in trials
    }
    for name, curve in curves.items():
        search.write(str(output), name, curve)
    raw = {"trials": {name: dataclasses.asdict(curve) for name, curve in curves.items()}}
    storage.write_json(str(output / search.FILE), raw)


def test_the_best_epoch_of_the_best_trial_counts(tmp_path: Path) -> None:
    trials = drawn(tmp_path)
    assert not search.is_over(setting(tmp_path), trials)
    ended(trials, tmp_path, {0: {1: 0.5}, 3: {1: 0.4, 2: 0.7, 3: 0.6}, 5: {1: 0.65}})
    assert search.best_of(str(tmp_path), trials).number == 3
    scores = {number: {1: number / 8} for number in range(6)}
    ended(trials, tmp_path, scores)
    assert search.is_over(setting(tmp_path), trials)
    more = drawn(tmp_path, trials=9)
    assert not search.is_over(setting(tmp_path), more), "three are missing"


@pytest.mark.parametrize(
    ("status", "over"),
    [
        ("finished", True),
        ("stopped", True),
        ("diverged", True),
        ("failed", False),
        ("running", False),
    ],
)
def test_a_trial_that_failed_or_was_cut_short_is_left_to_do(
    tmp_path: Path, status: str, over: bool
) -> None:
    trials = drawn(tmp_path, trials=2)
    ended(trials, tmp_path, {0: {1: 0.5}, 1: {1: 0.25}})
    curve = Curve(status=status, values=trials[1].values, scores={1: 0.25})
    search.write(str(tmp_path), trials[1].name, curve)
    assert search.is_over(setting(tmp_path), trials) is over
    assert search.best_of(str(tmp_path), trials).number == 0


@pytest.mark.parametrize("again", ["finished", "stopped", "failed"])
def test_a_trial_that_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """Whatever becomes of it, the study goes on; what failed again is told, and left to do."""
    trials = drawn(tmp_path, trials=2)
    ended(trials, tmp_path, {0: {1: 0.5}})
    trained: list[str] = []

    class Ended(BaseException):
        """ASHA ends the process."""

    def train(config: TrainConfig, preset: str, on_epoch: Any) -> None:
        trained.append(config.name)
        if again == "stopped":
            raise Ended
        on_epoch(1, {SCORE: 0.75})
        if again == "failed":
            raise OSError("no space left on device")

    def run_all(work: Any, items: Any, setting: Setting, on_end: Any, **_: Any) -> None:
        for item in items:
            with contextlib.suppress(Ended):
                work(item, setting)
            on_end(item.name, False)

    monkeypatch.setattr(pipeline.training.train, "train", train)
    monkeypatch.setattr(search.trials, "run", run_all)
    monkeypatch.setattr(search.trials, "report", lambda epoch, score: None)
    monkeypatch.setattr(Setting, "adopt", lambda *about: None)
    search.search(trials, SPACE, setting(tmp_path), 2, lambda name, curve: None)
    assert trained == ["trial-001"]
    found = storage.read_json(str(tmp_path / search.FILE))
    assert found["trials"]["trial-001"]["status"] == again
    lost = [(each.run, each.reason) for each in failed_trials(found)]
    assert lost == ([("trial-001", "no space left on device")] if again == "failed" else [])
    assert search.is_over(setting(tmp_path), trials) is (again != "failed")
    assert search.best_of(str(tmp_path), trials).number == (0 if again == "stopped" else 1)


def test_trials_that_ended_earlier_go_on_to_more_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trials(epochs: int) -> list[search.Trial]:
        return drawn(tmp_path, train=("workers=1", f"epochs={epochs}"), trials=2)

    before, now = trials(2), trials(3)
    ended(before, tmp_path, {0: {1: 0.5, 2: 0.75}, 1: {1: 0.5, 2: 0.25}})
    for trial in before:
        curve = search.read(str(tmp_path), trial.name)
        assert curve is not None
        kept = dataclasses.replace(curve, config=trial.config.to_dict())
        search.write(str(tmp_path), trial.name, kept)
    assert search.is_over(setting(tmp_path), before)
    assert search.best_of(str(tmp_path), before).number == 0
    assert not search.is_over(setting(tmp_path), now)
    trained = []

    def train(config: TrainConfig, preset: str, on_epoch: Any) -> None:
        trained.append(config.epochs)
        on_epoch(3, {SCORE: 0.125})

    monkeypatch.setattr(pipeline.training.train, "train", train)
    monkeypatch.setattr(search.trials, "report", lambda epoch, score: None)
    monkeypatch.setattr(Setting, "adopt", lambda *about: None)
    search._try(now[0], setting(tmp_path))
    curve = search.read(str(tmp_path), now[0].name)
    assert curve is not None
    assert trained == [3]
    assert (curve.status, curve.scores) == ("finished", {1: 0.5, 2: 0.75, 3: 0.125})
    search._try(now[0], setting(tmp_path))
    assert trained == [3], "it has them now"


@pytest.mark.parametrize(("died", "status"), [(False, "stopped"), (True, "failed")])
def test_a_trial_that_ends_before_its_first_new_epoch_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died: bool, status: str
) -> None:
    before = drawn(tmp_path, train=("workers=1", "epochs=2"), trials=2)
    now = drawn(tmp_path, train=("workers=1", "epochs=3"), trials=2)
    for trial in before:
        scores = {1: 0.5, 2: 0.75 + trial.number / 8}
        known = {"values": trial.values, "config": trial.config.to_dict(), "scores": scores}
        search.write(str(tmp_path), trial.name, Curve(status="finished", **known))

    def end(work: Any, trials: Any, *about: Any, on_end: Any, **more: Any) -> None:
        for trial in trials:
            on_end(trial.name, died)

    monkeypatch.setattr(search.trials, "run", end)
    monkeypatch.setattr(Setting, "adopt", lambda *about: None)
    search.search(now, SPACE, setting(tmp_path), 2, lambda name, curve: None)
    best = search.best_of(str(tmp_path), now)
    assert best.number == 1
    curve = search.read(str(tmp_path), best.name)
    assert curve is not None
    assert curve.status == status


def test_a_search_without_a_score_says_so(tmp_path: Path) -> None:
    trials = drawn(tmp_path)
    ended(trials, tmp_path, {})
    with pytest.raises(InputError, match="no trial"):
        search.best_of(str(tmp_path), trials)


def test_another_space_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    first, second = drawn(tmp_path), drawn(tmp_path, tune=("delta_rel=0.5:1",))
    search.write(str(tmp_path), first[0].name, Curve(status="running", values=first[0].values))
    assert not search.is_over(setting(tmp_path), first)
    with pytest.raises(InputError, match="another space"):
        search.is_over(setting(tmp_path), second)


def test_a_search_of_other_options_or_data_is_refused(tmp_path: Path) -> None:
    first = drawn(tmp_path)
    data = {"images of train": "a", "images of validation": "b"}
    curve = Curve(
        status="finished",
        values=first[0].values,
        scores={1: 0.5},
        config=first[0].config.to_dict(),
        data=data,
    )
    search.write(str(tmp_path), first[0].name, curve)
    search.is_over(setting(tmp_path, images_of_train="a", images_of_test="c"), first)
    with pytest.raises(InputError, match="images of train differ"):
        search.is_over(setting(tmp_path, images_of_train="z"), first)
    for train in (("image_size=64",), ("epochs=2",)):
        other = drawn(tmp_path, train=train)
        with pytest.raises(InputError, match=train[0].partition("=")[0]):
            search.is_over(setting(tmp_path), other)

    storage.write_json(search.path_of(str(tmp_path), first[0].name), {"status": "finished"})
    with pytest.raises(InputError, match="not a trial's curve"):
        search.is_over(setting(tmp_path), first)


def test_a_slope_that_is_no_number_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"alpha '[ab]' is no number"):
        drawn(tmp_path, tune=("alpha=a|b",))


def test_a_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    curve = Curve(status="stopped", values={"alpha": 2.5}, scores={1: 0.25, 2: 0.5})
    search.write(str(tmp_path), "trial-000", curve)
    assert search.read(str(tmp_path), "trial-000") == curve
    assert curve.best == 0.5
    assert Curve(status="failed", values={}).best == -math.inf
    assert search.read(str(tmp_path), "trial-001") is None


@pytest.mark.parametrize(
    "options",
    [{"rows": ("an", "ll-r")}, {"baseline": "an"}, {"draws": 2}, {"draw_per_seed": True}],
    ids=str,
)
def test_a_search_is_of_one_row(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="one row"):
        StudyConfig(**{"dataset": "d", "output": "o", "tune": SPACE, "rows": ("an",), **options})


def test_a_score_that_cannot_be_reported_fails_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs are told in a thread whose errors nobody sees."""

    def train(config: TrainConfig, preset: str, on_epoch: Any) -> None:
        for epoch in (1, 2):
            on_epoch(epoch, {SCORE: epoch / 10})

    def report(epoch: int, score: float) -> None:
        if epoch == 2:
            raise OSError("no space left on device")

    monkeypatch.setattr(pipeline.training.train, "train", train)
    monkeypatch.setattr(search.trials, "report", report)
    monkeypatch.setattr(Setting, "adopt", lambda *_: None)
    (trial, *_) = drawn(tmp_path)
    search._try(trial, setting(tmp_path, images_of_train="a"))
    curve = search.read(str(tmp_path), trial.name)
    assert curve is not None
    assert (curve.status, curve.scores) == ("failed", {1: 0.1, 2: 0.2})
    assert "no space left" in curve.reason
    assert curve.data == {"images of train": "a"}
    assert curve.config == trial.config.to_dict()


@pytest.fixture
def versions(squares: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, LabelVersion]:
    """Let a dataset have these label versions; ``bare`` and ``first`` have no validation split."""
    _, whole = Dataset.open(squares).label_version()
    splits = {split: file for split, file in whole.splits.items() if split != "validation"}
    bare = dataclasses.replace(whole, splits=splits)
    found = {"first": bare, "bare": bare, "complete": whole}
    manifest = SimpleNamespace(labels=found, default_labels="first")
    dataset = SimpleNamespace(
        manifest=manifest, label_version=lambda name: (name or "first", found[name or "first"])
    )
    monkeypatch.setattr(run, "open_dataset", lambda *_, **__: dataset)
    return found


@pytest.mark.parametrize(
    ("row", "labels", "train"),
    [
        ("ll-r", None, ()),
        ("ll-r", "complete", ("labels=bare",)),
        ("ll-r:labels=bare", "complete", ()),
    ],
    ids=str,
)
def test_a_search_needs_a_validation_split_of_what_its_trials_train_on(
    versions: dict[str, LabelVersion],
    tmp_path: Path,
    row: str,
    labels: str | None,
    train: tuple[str, ...],
) -> None:
    config = StudyConfig(
        dataset=str(tmp_path),
        output=str(tmp_path / "study"),
        rows=(row,),
        labels=labels,
        train=train,
        tune=("epochs=1:3",),
    )
    with pytest.raises(InputError, match="have no validation split"):
        run.prepare(config)
    run.prepare(dataclasses.replace(config, tune=()))


def test_a_search_of_labels_is_refused(versions: dict[str, LabelVersion], tmp_path: Path) -> None:
    """Each trial would be scored by its own labels of the validation split."""
    config = StudyConfig(
        dataset=str(tmp_path),
        output=str(tmp_path / "study"),
        rows=("ll-r",),
        labels="complete",
        tune=("labels=first|complete",),
    )
    with pytest.raises(InputError, match="other labels"):
        run.prepare(config)
    with pytest.raises(InputError, match="one row"):
        run.prepare(dataclasses.replace(config, rows=("ablation",), tune=("epochs=1:3",)))


def test_a_failed_trial_is_among_what_a_repetition_may_mend(
    versions: dict[str, LabelVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StudyConfig(
        dataset=str(tmp_path),
        output=str(tmp_path / "study"),
        rows=("ll-r",),
        labels="complete",
        tune=("epochs=1:3",),
        trials=2,
    )
    config, planned = run.prepare(config)
    ended(drawn(tmp_path, trials=2), tmp_path / "study", {0: {1: 0.5}})
    monkeypatch.setattr(run, "_parent", lambda *_: contextlib.nullcontext("parent"))
    monkeypatch.setattr(run, "_tuned", lambda *_: planned)
    monkeypatch.setattr(
        run, "read_records", lambda *_: dict.fromkeys(each.name for each in planned.runs)
    )
    monkeypatch.setattr(run, "_is_done", lambda *_: True)
    monkeypatch.setattr(run, "_write", lambda *_: None)
    lost = run.run(config, planned).lost
    assert [each.run for each in lost if each.status == "failed"] == ["trial-001"]


@pytest.mark.parametrize(
    ("row", "labels"), [("full", "complete"), ("full:labels=second", "second"), ("an", "first")]
)
def test_trials_train_on_the_labels_of_the_rows_runs(
    versions: dict[str, LabelVersion],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    row: str,
    labels: str,
) -> None:
    versions |= dict.fromkeys(("first", "second"), versions["complete"])
    config = StudyConfig(
        dataset=str(tmp_path),
        output=str(tmp_path / "study"),
        rows=(row,),
        tune=("learning_rate=1e-4:1e-3",),
        trials=2,
    )
    searched: list[search.Trial] = []

    def best_of(study: str, drawn: list[search.Trial]) -> search.Trial:
        searched.extend(drawn)
        return drawn[0]

    monkeypatch.setattr(search, "is_over", lambda *_: True)
    monkeypatch.setattr(search, "best_of", best_of)
    monkeypatch.setattr(run, "_setting", lambda *_: None)
    config, planned = run.prepare(config)
    found = run._tuned(config, planned, "parent")
    assert {trial.config.labels for trial in searched} == {labels}
    assert {each.config.labels for each in found.runs} == {labels}


def test_every_trial_is_in_the_table_the_best_first() -> None:
    curves = {
        "trial-000": Curve(status="diverged", values={}, reason="the loss is nan"),
        "trial-001": Curve(status="stopped", values={}, scores={1: 0.25}, reason="by ASHA"),
        "trial-002": Curve(status="finished", values={}, scores={1: 0.5, 2: 0.75, 3: 0.625}),
    }
    found = {
        "space": ["alpha=2:10"],
        "rows": {name: f"ll-r@{number}/{number}" for number, name in enumerate(curves, 4)},
        "trials": json.loads(json.dumps({k: dataclasses.asdict(v) for k, v in curves.items()})),
    }
    table = render.searched(found)
    assert table.sections == [
        [
            ["trial-002", "ll-r@6/6", "finished", "75.00", "2", "3"],
            ["trial-001", "ll-r@5/5", "stopped: by ASHA", "25.00", "1", "1"],
            ["trial-000", "ll-r@4/4", "diverged: the loss is nan", "", "", "0"],
        ]
    ]
    assert "alpha=2:10" in table.markdown()
