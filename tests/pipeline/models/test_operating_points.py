"""Thresholds of a checkpoint: read with it, used by every prediction, and damaged ones named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.config.commands import EvaluateConfig, PredictConfig
from pipeline.evaluation import run
from pipeline.evaluation.scores import Scores
from pipeline.inference import export, predict, pyfunc
from pipeline.inference.predict_plan import Part
from pipeline.models import operating_points
from pipeline.models.operating_points import OperatingPoints
from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.support.models import SIZE, write_checkpoint

IMAGE_HWC = np.full((SIZE, SIZE, 3), 90, np.uint8)


@pytest.fixture
def saved(squares: Path, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", squares)


def give(saved: Path, squares: Path, thresholds: list[float], temperature: float) -> None:
    points = OperatingPoints(
        criterion="maximal F1",
        source="a test",
        classes_sha256=Dataset.open(squares).classes.sha256,
        thresholds=thresholds,
        temperatures=[temperature] * len(thresholds),
    )
    (saved / operating_points.FILE).write_text(points.to_json())


def test_a_class_is_present_at_its_own_threshold_and_its_probability_is_calibrated(
    squares: Path, saved: Path, tmp_path: Path
) -> None:
    plain = pipeline.load(saved).predict([IMAGE_HWC])[0]
    K = len(plain.mids)
    # Classes 0 and 2 are at their thresholds or above, all others below.
    thresholds = [float(x) + (-1 if k == 0 else 0 if k == 2 else 1) for k, x in _numbered(plain)]
    give(saved, squares, thresholds, 2.0)
    found = pipeline.load(saved).predict([IMAGE_HWC])[0]
    assert {label.index for label in found.above()} == {0, 2}
    assert len(found.above(-np.inf)) == K
    label = found.top(1)[0]
    assert label.probability == pytest.approx(1 / (1 + np.exp(-label.score / 2)))

    model = pyfunc.CamPyfuncModel()
    model.predictor = pipeline.load(saved)
    answer = pyfunc._answer(found, *pyfunc._options({}))
    assert {label["mid"] for label in answer["labels"]} == {found.mids[0], found.mids[2]}
    assert "maximal F1" in answer["thresholds"]
    every = pyfunc._answer(found, *pyfunc._options({"threshold": 0.0, "top_k": 0}))
    assert len(every["labels"]) == K
    assert "thresholds" not in every

    config = PredictConfig(checkpoint=str(saved), output=str(tmp_path), images=str(tmp_path))
    for options, indices in (
        ({"top_k": 1}, [found.above()[0].index]),
        ({"threshold": 0.0, "top_k": 0}, [label.index for label in found.top(K)]),
    ):
        predictor = SimpleNamespace(predict_pixels=lambda images: [found])
        worker = SimpleNamespace(config=dataclasses.replace(config, **options), predictor=predictor)
        image = np.zeros((8, 8, 3), np.uint8)
        (row,) = predict.PartPredictor._rows(worker, Part(number=0), ["a"], [image])
        assert row["class_index"] == indices

    export.export(str(saved), tmp_path / "exported", ("onnx",))
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "exported/model.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["thresholds"]) == thresholds
    assert json.loads(about["temperatures"]) == [2.0] * K
    assert "maximal F1 on a test" in about["thresholds_are"]


def _numbered(found: Any) -> Any:
    return enumerate(found.scores_K)


def test_a_prediction_says_which_thresholds_it_uses_and_is_another_with_others(
    squares: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PredictConfig(checkpoint=str(saved), output=str(tmp_path), images=str(tmp_path))
    resolved, before = predict._identified(config, str(saved))
    assert resolved.threshold == 0.0
    give(saved, squares, [0.5] * 8, 1.0)
    resolved, after = predict._identified(config, str(saved))
    assert resolved.threshold is None
    assert after != before
    assert "a threshold per class for maximal F1" in "".join(capsys.readouterr())


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"format": 1}'])
def test_damaged_thresholds_are_one_error(saved: Path, text: str) -> None:
    (saved / operating_points.FILE).write_text(text)
    with pytest.raises(InputError, match=r"thresholds\.json: thresholds are damaged"):
        pipeline.load(saved)


def test_thresholds_of_other_classes_are_refused(saved: Path, squares: Path) -> None:
    give(saved, squares, [0.0] * 8, 1.0)
    with pytest.raises(InputError, match="of another class list"):
        operating_points.read(str(saved), "0" * 64)


def test_an_evaluation_chooses_them_on_validation_and_keeps_them(
    squares: Path, saved: Path
) -> None:
    config = EvaluateConfig(
        checkpoint=str(saved), dataset=str(squares), split="validation", thresholds=True
    )
    subject = run.Subject.open(config)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 400).astype(np.int8)
    logits = (2.0 * labels + generator.normal(size=400)).astype(np.float32)
    scores = Scores(
        image_ids_E=np.arange(400, dtype=np.uint64),
        classes_E=np.arange(400) % 8,
        labels_E=labels,
        raw_E=logits,
        boosted_E=logits,
    )
    decisions = run._decisions(subject, scores)
    assert decisions is not None
    assert run._keep(decisions.points, subject) is None
    stored = operating_points.read(str(saved), subject.meta.classes_sha256)
    assert stored == decisions.points
    assert stored.columns["positives"] == np.bincount(np.arange(400) % 8, labels).tolist()
    assert all(
        low <= share <= high
        for low, share, high in zip(
            *(stored.columns[f"precision{end}"] for end in ("_low", "", "_high")), strict=True
        )
    )
    assert decisions.f1["own"]["macro"] > decisions.f1["half"]["macro"]
    assert "one global 0.5: macro" in str(decisions)
    test = run.Subject.open(dataclasses.replace(config, thresholds=False))
    again = run._decisions(test, scores)
    assert again is not None
    assert again.points == stored


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": "test", "thresholds": True},
        {"split": "validation", "precision": 0.9},
        {"split": "validation", "thresholds": True, "precision": 1.5},
        {"split": "validation", "thresholds": True, "beam": 2},
    ],
)
def test_thresholds_are_not_chosen_on_the_test_split(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        EvaluateConfig(checkpoint="c", dataset="d", **wrong)
