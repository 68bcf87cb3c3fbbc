"""The recipes of docs/evaluation.md give the numbers that our evaluator gives."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation import report
from pipeline.evaluation.metrics import average_precision, summarize
from pipeline.evaluation.scores import ScoreFile
from sharding.classes import ClassTable

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"
NUM_CLASSES = 20


def write_evaluation(folder: Path) -> float:
    """Class table, score file and per-class table of a small run; returns group 1's mAP."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 50, NUM_CLASSES)
    mids = [f"/m/{i:02d}" for i in range(NUM_CLASSES)]
    classes = ClassTable.build(mids, mids, counts, counts)
    labels = rng.integers(0, 2, 900).astype(np.int8)
    class_ids = rng.integers(0, NUM_CLASSES, 900)
    rarest = np.flatnonzero(classes.groups_K == 1)
    # Of group 1, one class has no positive, and one no entry at all.
    labels[class_ids == rarest[0]] = 0
    kept = class_ids != rarest[1]
    labels, class_ids = labels[kept], class_ids[kept]
    scores = np.round(8 * (rng.normal(size=len(labels)) + labels)).astype(np.float32) / 8
    image_ids = np.arange(len(labels)).astype(np.uint64)
    ap_K = average_precision(scores, labels, class_ids, NUM_CLASSES)
    positives_K = np.bincount(class_ids[labels == 1], minlength=NUM_CLASSES)
    negatives_K = np.bincount(class_ids[labels == 0], minlength=NUM_CLASSES)
    classes.write(folder / "classes.parquet")
    ScoreFile(
        image_ids_E=image_ids,
        classes_E=class_ids,
        labels_E=labels,
        raw_E=-scores,
        boosted_E=scores,
    ).write(folder / "scores.parquet")
    columns = report.per_class_columns(classes, positives_K, negatives_K, ap_K, ap_K)
    report.write_per_class(columns, folder / "per_class.parquet")
    summary = summarize(ap_K, classes.groups_K, positives_K, negatives_K)
    assert summary.counted[1] == 3
    return summary.map_groups[1]


def test_every_code_block_runs_and_both_recipes_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = write_evaluation(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        value, classes = line.split(" over ")
        assert float(value) == pytest.approx(expected, abs=1e-9)
        assert classes == "3 classes"
