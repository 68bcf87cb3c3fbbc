"""From an evaluation's scores to verified labels that are likely wrong, beside candidates."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.audit import run as audit_run
from pipeline.audit.inputs import Inputs, Readers
from pipeline.config.commands import AuditConfig
from pipeline.evaluation.scores import Scores
from sharding.dataset.ground_truth import read_ground_truth
from sharding.dataset.lookup import read_credits, read_images
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.labels import POSITIVE
from sharding.manifest import Dataset
from tests.pipeline.audit.test_review_sheet import Sheet, found_in
from tests.support.models import write_checkpoint

WRONG = (3, 40)
"""Entries of the split that the scores contradict, the second one more."""


def write_scores(path: Path, dataset: Path, split: str = "train", **about: str) -> str:
    """Scores that agree with the labels of a split, but for `WRONG`."""
    table = Dataset.open(dataset).labels(split)
    entries = table.entries()
    logits = np.where(entries.states_E == POSITIVE, 3, -3).astype(np.float32)
    logits[list(WRONG)] *= [-1, -2]
    scores = Scores(
        image_ids_E=table.image_ids_N[entries.rows_E],
        classes_E=entries.classes_E,
        labels_E=entries.states_E,
        raw_E=logits,
        boosted_E=logits,
    )
    path.write_bytes(scores.to_parquet({"split": split, "labels": "first", **about}))
    return str(path)


@pytest.fixture
def run(squares: Path, tmp_path: Path) -> Path:
    """A run without candidates."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dataset": str(squares)}))
    return folder


def export(run: Path, output: Path, **options: object) -> str:
    config = AuditConfig(run=str(run), output=output, **options)  # type: ignore[arg-type]
    readers = Readers(images=read_images, credits=read_credits, truth=read_ground_truth)
    return audit_run.run(config, readers)


def wrong_entries(dataset: Path) -> list[tuple[str, str]]:
    """(image, MID) of `WRONG`, the larger loss first."""
    opened = Dataset.open(dataset)
    table = opened.labels("train")
    entries = table.entries()
    ids = format_image_ids(table.image_ids_N[entries.rows_E[list(WRONG)]])
    mids = [opened.classes.mids[int(k)] for k in entries.classes_E[list(WRONG)]]
    return list(zip(ids, mids, strict=True))[::-1]


def test_contradicted_labels_are_listed(squares: Path, run: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores.parquet", squares)
    output = export(run, tmp_path / "out", scores=(scores,), sheet=False, truth="first")
    with open(tmp_path / "out/label-errors.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["ImageID"], row["LabelName"]) for row in rows] == wrong_entries(squares)
    assert float(rows[0]["Loss"]) == pytest.approx(np.log1p(np.exp(6)), abs=1e-3)
    assert "2 of 2 that all networks contradict" in output
    assert "0 of 2 labels exported are wrong" in output
    top = export(run, tmp_path / "top", scores=(scores,), sheet=False, top=1)
    assert "1 of 2 that all networks contradict" in top


def test_scores_of_another_class_list_are_refused(squares: Path, run: Path, tmp_path: Path) -> None:
    own = Dataset.open(squares).classes.sha256
    scores = write_scores(tmp_path / "scores.parquet", squares, classes_sha256="f" * 64)
    lists = rf"scores of class list f{{12}}, dataset of class list {own[:12]} \(8 classes\)"
    with pytest.raises(InputError, match=lists):
        export(run, tmp_path / "out", scores=(scores,), sheet=False)
    assert not (tmp_path / "out").exists()
    scores = write_scores(tmp_path / "scores.parquet", squares, classes_sha256=own)
    assert "2 of 2" in export(run, tmp_path / "out", scores=(scores,), sheet=False)


def test_they_stand_below_the_candidates_on_one_sheet(
    squares: Path, run: Path, tmp_path: Path
) -> None:
    scores = write_scores(tmp_path / "scores.parquet", squares)
    (run / "candidates").mkdir()
    content = found_in(squares).to_parquet(Dataset.open(squares).classes)
    (run / "candidates/epoch-002.parquet").write_bytes(content)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", squares)
    output = export(run, tmp_path / "out", scores=(scores,), checkpoint=str(checkpoint), top=3)
    rows = Sheet(tmp_path / "out/sheet.html").rows
    assert len(rows) == 3 + 2
    assert rows[3:] == wrong_entries(squares)
    text = (tmp_path / "out/sheet.html").read_text()
    assert len(re.findall("<dt>verified as</dt><dd>(positive|negative)</dd>", text)) == 2
    assert "--annotations reviewed-first-epoch-002-train.csv" in output
    # The annotations that call candidates present say nothing of verified labels.
    assert len((tmp_path / "out/train.csv").read_text().splitlines()) == 1 + 3


def test_a_network_may_judge_only_what_it_did_not_train_on(
    squares: Path, run: Path, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", squares)
    scores = write_scores(tmp_path / "scores.parquet", squares, checkpoint=str(checkpoint))
    output = export(run, tmp_path / "out", scores=(scores,), held_out=True)
    assert "0 of 0 that all networks contradict, 0 verified train labels judged" in output
    assert not (tmp_path / "out/sheet.html").exists()


def test_scores_that_do_not_fit_are_refused(squares: Path, run: Path, tmp_path: Path) -> None:
    train = write_scores(tmp_path / "train.parquet", squares)
    other = write_scores(tmp_path / "test.parquet", squares, "test")
    with pytest.raises(InputError, match="not of split train by labels first"):
        export(run, tmp_path / "out", scores=(train, other))
    unnamed = tmp_path / "old.parquet"
    unnamed.write_bytes(Scores.read(train).to_parquet())
    with pytest.raises(InputError, match=r"old\.parquet: the scores do not say their split"):
        export(run, tmp_path / "out", scores=(str(unnamed),))
    moved = tmp_path / "moved.parquet"
    about = {"split": "validation", "labels": "first"}
    moved.write_bytes(Scores.read(other).to_parquet(about))
    with pytest.raises(InputError, match="scores are of other images or labels"):
        export(run, tmp_path / "out", scores=(str(moved),))


@pytest.mark.parametrize(
    "wrong",
    [
        {"plan": 10},
        {"held_out": True},
        {"plan": 10, "scores": ("a", "b")},
        {"pool": "predictions", "scores": ("a",)},
        {"plan": 0, "scores": ("a",)},
    ],
)
def test_options_that_lack_others_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        AuditConfig(run="runs/first", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_probability": 95.0}, "min_probability is 95. Fix: pass --min-probability"),
        ({"min_probability": -0.1}, "min_probability is -0.1"),
        ({"min_probability": math.nan}, "min_probability is nan"),
        ({"min_loss": math.nan}, "min_loss is nan. Fix: pass --min-loss"),
        ({"min_loss": -1.0}, "min_loss is -1"),
    ],
)
def test_bounds_of_candidates_outside_their_range_are_refused(
    wrong: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        AuditConfig(run="runs/first", **wrong)  # type: ignore[arg-type]
    assert message in str(caught.value)
    AuditConfig(run="runs/first", min_probability=1.0, min_loss=40.0)


PLAN = {"plan": 9, "scores": ("a",)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"log": True}, "--log is of what --truth judges"),
        ({"log": True, "scores": ("a",)}, "--log is of what --truth judges"),
        ({"truth": "t", **PLAN}, "--truth would be ignored with --plan"),
        ({"tools": ("fiftyone",), **PLAN}, "--tools would be ignored with --plan"),
        ({"held_out": True, **PLAN}, "--held-out would be ignored with --plan"),
        ({"log": True, **PLAN}, "--log would be ignored with --plan"),
        (
            {"rank": "disagreement", "min_loss": 0.5, "min_probability": 0.5, **PLAN},
            "--rank and --min-probability and --min-loss would be ignored with --plan",
        ),
        ({"top": 10, "confidences": "m", **PLAN}, "--confidences and --top would be ignored"),
        ({"decisions": ("kept",), "epoch": 0, **PLAN}, "--epoch and --decisions would be ignored"),
        ({"min_loss": 0.5, "corrections": True}, "--min-loss would be ignored with --corrections"),
        ({"truth": "t", "corrections": True}, "--truth would be ignored with --corrections"),
        (
            {"tools": ("fiftyone",), "scores": ("a",), "corrections": True},
            "--scores and --tools would be ignored with --corrections",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AuditConfig(run="runs/first", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ({"held_out": True}, "--held-out"),
        ({"tools": ("fiftyone",)}, "--tools"),
        ({"log": True, "truth": "first"}, "--log"),
        ({"rank": "disagreement"}, "--rank"),
        ({"min_probability": 0.5}, "--min-probability"),
    ],
)
def test_options_of_candidates_are_refused_with_scores_of_another_split(
    squares: Path, run: Path, tmp_path: Path, option: dict[str, object], flag: str
) -> None:
    scores = write_scores(tmp_path / "scores.parquet", squares, "validation")
    message = rf"scores\.parquet: {flag} would be ignored: the scores are of split validation"
    with pytest.raises(InputError, match=message):
        export(run, tmp_path / "out", scores=(scores,), sheet=False, **option)
    assert not (tmp_path / "out").exists()
    truth = {"truth": "first"} if "truth" in option else {}
    export(run, tmp_path / "out", scores=(scores,), sheet=False, **truth)


def test_options_of_candidates_are_refused_where_the_labels_have_none(
    squares: Path, run: Path, tmp_path: Path
) -> None:
    scores = write_scores(tmp_path / "scores.parquet", squares)
    with pytest.raises(InputError, match="--tools would be ignored: the run has no candidates"):
        export(run, tmp_path / "out", scores=(scores,), sheet=False, tools=("fiftyone",))
    assert not (tmp_path / "out").exists()


def test_the_truth_is_read_once_for_labels_and_candidates(
    squares: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_scores(tmp_path / "scores.parquet", squares)
    (run / "candidates").mkdir()
    content = found_in(squares).to_parquet(Dataset.open(squares).classes)
    (run / "candidates/epoch-002.parquet").write_bytes(content)
    truth = tmp_path / "truth.csv"
    truth.write_text(f"ImageID,LabelName\n{2:016x},/m/0003\n{2:016x},Cat\n")
    options: dict[str, object] = {"truth": str(truth), "tools": ("fiftyone",), "sheet": False}
    report = export(run, tmp_path / "out", scores=(scores,), **options)
    assert (tmp_path / "out/labels.json").exists()
    assert report.count("judged ") == 2
    assert capsys.readouterr().out.count("outside the dataset's list") == 1


@pytest.mark.parametrize("drawn", [False, True])
def test_images_are_copied_for_pictures_only(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: bool
) -> None:
    def opened(*_: object, tars: list[str], **__: object) -> None:
        assert tars == (["test"] if drawn else [])
        raise InputError("opened")

    monkeypatch.setattr("pipeline.audit.inputs.open_dataset", opened)
    pool = str(tmp_path) if drawn else None
    config = AuditConfig(run=str(run), scores=("a",), plan=5, pool=pool)
    with pytest.raises(InputError, match="opened"):
        Inputs.open(config, "test")
