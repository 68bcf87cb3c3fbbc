"""LL-Cp's corrections leave a checkpoint as a CSV that re-sharding lays over the labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.audit import run
from pipeline.audit.inputs import Readers
from pipeline.cluster.checkpoints import SCORE
from pipeline.config.commands import AuditConfig
from pipeline.training.epoch import run_epoch
from sharding.dataset.ground_truth import read_ground_truth
from sharding.dataset.lookup import read_credits, read_images
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset
from tests.support.training import begun, worker_for


def exported(squares: Path, folder: Path, method: str) -> list[str]:
    worker = begun(worker_for(squares, method))
    for epoch in (1, 2):
        run_epoch(worker, epoch)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    worker.save(str(checkpoint), {SCORE: 0.0})
    (folder / "config.json").write_text(json.dumps({"dataset": str(squares)}))
    config = AuditConfig(
        run=str(folder),
        checkpoint=str(checkpoint),
        output=folder / "export-first",
        corrections=True,
    )
    output = run.run(
        config, Readers(images=read_images, credits=read_credits, truth=read_ground_truth)
    )
    rows = (folder / "export-first/train.csv").read_text().splitlines()
    assert f"({len(rows) - 1:,})" in output
    mids = Dataset.open(squares).classes.mids
    ids, classes = worker.method.corrections()  # type: ignore[attr-defined]
    expected = [
        f"{image_id},ll-cp-correction,{mids[k]},1"
        for image_id, k in zip(
            format_image_ids(ids.numpy().view("uint64")), classes.tolist(), strict=True
        )
    ]
    assert rows == ["ImageID,Source,LabelName,Confidence", *expected]
    return rows[1:]


def test_they_become_a_csv(squares: Path, tmp_path: Path) -> None:
    assert len(exported(squares, tmp_path, "ll-cp")) == 9


def test_other_methods_have_none(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ll-ct corrects nothing for good"):
        exported(squares, tmp_path, "ll-ct")
