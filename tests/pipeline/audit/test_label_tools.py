"""Candidates for other tools: what they read, without any of them installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.audit import label_tools
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset
from tests.pipeline.audit.test_judge import candidates_of

CHOSEN = candidates_of(np.array([3, 3, 5]), np.array([1, 2, 1]), np.array([True, False, False]))
IMAGES = [(image_id, b"JPEG") for image_id in format_image_ids(CHOSEN.image_ids_N[1:])]


def test_label_studio_gets_a_question_per_candidate(squares: Path, tmp_path: Path) -> None:
    classes = Dataset.open(squares).classes
    written = label_tools.write(tmp_path, ["label-studio"], CHOSEN, classes, IMAGES)
    assert [path.name for path in written] == ["label-studio.json", "label-studio.xml"]
    tasks = json.loads(written[0].read_text())
    assert [(t["data"]["image_id"], t["data"]["mid"]) for t in tasks] == [
        (image_id, classes.mids[k])
        for image_id, k in zip(format_image_ids(CHOSEN.image_ids_N), (1, 2, 1), strict=True)
    ]
    interface = written[1].read_text()
    for task in tasks:
        (prediction,) = task["predictions"]
        (result,) = prediction["result"]
        assert f'name="{result["from_name"]}" toName="{result["to_name"]}"' in interface
        assert f'value="{result["value"]["choices"][0]}"' in interface
        assert prediction["score"] == task["data"]["probability"]
        file = task["data"]["image"].partition("?d=")[2]
        assert (tmp_path / file).read_bytes() == b"JPEG"


def test_fiftyone_gets_labels_by_picture(squares: Path, tmp_path: Path) -> None:
    classes = Dataset.open(squares).classes
    (path,) = label_tools.write(tmp_path, ["fiftyone"], CHOSEN, classes, IMAGES)
    labels = json.loads(path.read_text())["labels"]
    assert set(labels) == {file.stem for file in (tmp_path / "data").iterdir()}
    first, second = labels[IMAGES[0][0]]
    assert first["label"] == classes.names[1]
    assert first["attributes"]["decision"] == "corrected"
    assert first["confidence"] > second["confidence"] > 0
