"""The recipes of docs/evaluation.md give the numbers that our evaluator gives."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.per_class import PerClass
from pipeline.evaluation.scores import BOOST_ON
from sharding.classes import ClassTable
from tests.pipeline.evaluation.entries import make_scores

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"
NUM_CLASSES = 20


def write_evaluation(folder: Path) -> float:
    """Class table, score file and per-class table of a small run; returns group 1's mAP."""
    folder.mkdir()
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
    scored = dataclasses.replace(make_scores(scores, labels, class_ids), raw_E=-scores)
    classes.write(folder / "classes.parquet")
    (folder / "scores.parquet").write_bytes(scored.to_parquet())
    table = PerClass.of(scored, classes)
    (folder / "per_class.parquet").write_bytes(table.to_parquet())
    summary = table.summaries()[BOOST_ON]
    assert summary.counted[1] == 3
    return summary.map_groups[1]


def test_every_code_block_runs_and_both_recipes_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = write_evaluation(tmp_path / "eval")
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
