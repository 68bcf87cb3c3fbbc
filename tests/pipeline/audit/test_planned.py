"""From an evaluation and predictions to the labels that are verified next."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.audit import planned
from pipeline.audit.review_plan import Precision
from pipeline.inference.predict import SCHEMA
from sharding.errors import InputError
from sharding.image_ids import format_image_ids, parse_image_ids
from sharding.labels import POSITIVE, UNOBSERVED
from sharding.manifest import Dataset
from tests.pipeline.audit.test_scored import export, run, write_scores

__all__ = ["run"]
SPLIT, K = "validation", 8


@pytest.fixture
def scores(squares: Path, tmp_path: Path) -> str:
    return write_scores(tmp_path / "scores.parquet", squares, SPLIT)


def write_predictions(
    folder: Path, dataset: Path, scores: str, shift: float = 0, unread: slice = slice(0)
) -> Path:
    """Predictions of every class of the split in two parts: the scores, and others around 0."""
    opened = Dataset.open(dataset)
    table = opened.labels(SPLIT)
    logits_NK = np.random.default_rng(0).normal(size=(len(table), K)).astype(np.float32)
    known = pq.read_table(scores)
    rows_E = table.rows_of(parse_image_ids(known["image_id"].combine_chunks()))
    logits_NK[rows_E, known["class_index"].to_numpy()] = known["score"].to_numpy() + shift
    names = format_image_ids(table.image_ids_N)
    rows: list[dict[str, Any]] = [
        {"image": name, "class_index": list(range(K)), "score": logits.tolist()}
        for name, logits in zip(names, logits_NK, strict=True)
    ]
    for row in rows[unread]:
        row.update(class_index=None, score=None, error="cannot be read (3 workers died of it)")
    rows.append({"image": "0" * 16, "error": "damaged JPEG"})
    schema = SCHEMA.with_metadata({"classes_sha256": opened.classes.sha256})
    folder.mkdir()
    for part, some in enumerate((rows[:9], rows[9:])):
        place = folder / f"part-{part:06d}.parquet"
        pq.write_table(pa.Table.from_pylist(some, schema), place)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_entries_are_planned_that_nobody_has_verified(
    squares: Path, run: Path, scores: str, tmp_path: Path
) -> None:
    pool = write_predictions(tmp_path / "predictions", squares, scores)
    output = export(run, tmp_path / "out", scores=(scores,), plan=30, pool=str(pool), sheet=False)
    assert "30 labels of" in output
    classes = rows_of(tmp_path / "out/plan.csv")
    entries = rows_of(tmp_path / "out/entries.csv")
    asked = {(row["ImageID"], row["LabelName"]) for row in entries}
    assert len(asked) == len(entries) == 30 == sum(int(row["ToVerify"]) for row in classes)
    opened = Dataset.open(squares)
    table = opened.labels(SPLIT)
    dense_NK = table.dense(table.rows_of(parse_image_ids([i for i, _ in asked])), K)
    columns = [opened.classes.mids.index(mid) for _, mid in asked]
    assert (dense_NK[np.arange(30), columns] == UNOBSERVED).all()
    for row in classes:
        k = opened.classes.mids.index(row["LabelName"])
        of_class = table.classes_E == k
        assert int(row["Positives"]) == (table.states_E[of_class] == POSITIVE).sum()
        assert int(row["Positives"]) + int(row["Negatives"]) == of_class.sum()
        shrinks = float(row["HalfIntervalExpected"]) < float(row["HalfInterval"])
        assert shrinks == (row["ToVerify"] != "0" and float(row["HalfInterval"]) > 0)


def test_images_that_were_not_read_are_told(
    squares: Path, run: Path, scores: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(pool: Path) -> str:
        more: dict[str, Any] = {"plan": 5, "pool": str(pool), "sheet": False}
        return export(run, tmp_path / "out", scores=(scores,), **more)

    some = write_predictions(tmp_path / "some", squares, scores, unread=slice(9))
    assert "5 labels of" in planned(some)
    said = capsys.readouterr().out
    assert said.startswith(f"{some}: 9 images of the predictions could not be read")
    lost = {f"{row['image']}" for row in pq.read_table(some / "part-000000.parquet").to_pylist()}
    assert len(lost) == 9
    assert not lost & {row["ImageID"] for row in rows_of(tmp_path / "out/entries.csv")}
    every = write_predictions(tmp_path / "every", squares, scores, unread=slice(None))
    with pytest.raises(InputError, match=r"every: 40 images of .* could not be read"):
        planned(every)
    planned(write_predictions(tmp_path / "whole", squares, scores))
    assert capsys.readouterr().out == ""


def test_without_a_pool_the_classes_are_planned(run: Path, scores: str, tmp_path: Path) -> None:
    output = export(run, tmp_path / "out", scores=(scores,), plan=500)
    assert sum(int(row["ToVerify"]) for row in rows_of(tmp_path / "out/plan.csv")) == 500
    assert "mAP known to" in output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["plan.csv"]


def test_predictions_of_something_else_are_refused(
    squares: Path, run: Path, scores: str, tmp_path: Path
) -> None:
    def planned(pool: Path) -> str:
        return export(run, tmp_path / "out", scores=(scores,), plan=5, pool=str(pool))

    other = write_predictions(tmp_path / "other", squares, scores, shift=0.5)
    with pytest.raises(InputError, match="of other images or another network"):
        planned(other)
    with pytest.raises(InputError, match="no predictions are there"):
        planned(tmp_path / "nowhere")
    (other / "_plan.json").write_text("{}")
    with pytest.raises(InputError, match=r"other: .* unfinished. Fix: repeat the `predict`"):
        planned(other)
    (other / "_plan.json").unlink()
    for part in other.iterdir():
        pq.write_table(pq.read_table(part).replace_schema_metadata({}), part)
    with pytest.raises(InputError, match="predictions of another class list"):
        planned(other)


def test_where_everything_is_ranked_perfectly_no_width_is_claimed() -> None:
    groups_K, labels_K = np.arange(1, 6), np.full(5, 20)
    for variance, widths in ((0.0, "± –"), (0.05, "± 9.80")):
        variances_K = np.full(5, variance)
        known = Precision(groups_K=groups_K, labels_K=labels_K, variances_K=variances_K)
        text = planned._plan_table(known, np.zeros(5, int))
        assert text.count(widths) == 10
        assert ("–: every class is ranked perfectly" in text) == (variance == 0)
