"""Bulk predictions: every image once, the model's labels, errors as rows, resumed by repeating."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline import bulk, bulkplan
from pipeline.bulkplan import PredictConfig
from sharding.labels import format_image_ids
from sharding.manifest import Dataset
from tests.models import write_checkpoint
from tests.test_predictor import jpegs


@pytest.fixture(scope="module")
def saved(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bulk") / "checkpoint", squares)


def test_a_shard_becomes_a_file_with_the_models_labels(
    squares: Path, saved: Path, tmp_path: Path
) -> None:
    config = PredictConfig(
        checkpoint=str(saved), output=tmp_path, dataset=squares, top_k=3, cams=1, batch_size=5
    )
    first, second = bulkplan.parts(config)
    predict = bulk.PartPredictor(config, str(saved), 1)
    assert predict({"item": second}) == {"images": 8, "errors": 0}
    assert not (tmp_path / first.file).exists()
    rows = {row["image"]: row for row in pq.read_table(tmp_path / second.file).to_pylist()}
    images = jpegs(squares)
    assert list(rows) == list(images)[16:]
    for image_id, found in zip(
        rows, pipeline.load(str(saved)).predict(images[name] for name in rows), strict=True
    ):
        best = found.top(3)
        assert rows[image_id]["mid"] == [label.mid for label in best]
        assert np.allclose(rows[image_id]["score"], [label.score for label in best], atol=1e-5)
    assert len(list((tmp_path / "_cams/part-000001").glob("*.png"))) == 8


def test_the_threshold_is_a_probability(squares: Path, saved: Path, tmp_path: Path) -> None:
    config = PredictConfig(
        checkpoint=str(saved), output=tmp_path, dataset=squares, top_k=0, threshold=0.5
    )
    part = bulkplan.parts(config)[1]
    bulk.PartPredictor(config, str(saved), 1)({"item": part})
    scores = [row["score"] for row in pq.read_table(tmp_path / part.file).to_pylist()]
    assert all(score >= 0 for of_image in scores for score in of_image)
    assert {len(of_image) for of_image in scores} != {8}


@pytest.mark.ray
def test_a_folder_on_two_workers_resumed(
    squares: Path, saved: Path, tmp_path: Path, ray_local: None
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in jpegs(squares).items():
        (folder / f"{name}.jpg").write_bytes(content)
    (folder / "broken.jpg").write_bytes(b"none")
    config = PredictConfig(
        checkpoint=str(saved),
        output=tmp_path / "out",
        images=folder,
        images_per_part=10,
        workers=2,
    )
    listed = bulkplan.parts(config)
    # One part is there already, as after a kill; it must be kept.
    bulkplan.unfinished(config, "", listed)
    (config.output / bulkplan.PLAN).unlink()
    bulk.PartPredictor(config, str(saved), 1)({"item": listed[0]})
    before = (config.output / listed[0].file).stat().st_mtime_ns
    told = bulk.predict(config, lambda: None)
    assert told == {"images": 25, "errors": 1, "files": 3}
    assert json.loads((config.output / "_SUCCESS").read_text()) == told
    assert (config.output / listed[0].file).stat().st_mtime_ns == before
    rows = pq.read_table(config.output).to_pylist()
    ids = format_image_ids(Dataset.open(squares).labels("test").image_ids_N)
    names = sorted(Path(row["image"]).stem for row in rows)
    assert names == sorted([*ids, "broken"])
    (bad,) = [row for row in rows if row["error"]]
    assert "unknown format" in bad["error"]
    assert bad["mid"] is None
    assert bulk.predict(config, lambda: pytest.fail("nothing was left to do")) == told
