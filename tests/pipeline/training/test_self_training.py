"""A network's predictions become confidences that the next trains on; no evaluation sees them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.audit import candidates
from pipeline.cluster.checkpoints import SCORE
from pipeline.config.commands import PredictConfig
from pipeline.data.labels import LabelledSplit
from pipeline.inference import predict_plan
from pipeline.inference.predict import PartPredictor
from pipeline.training.epoch import run_epoch
from sharding.commands.confidences import reshard_confidences
from sharding.commands.options import ReshardOptions
from sharding.confidences import ConfidenceTable
from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.support.training import begun, worker_for

VLPL = ("warmup_epochs=1", "threshold=0.5")


@pytest.fixture(scope="module")
def taught(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with the confidences of a network that was trained on it."""
    root = tmp_path_factory.mktemp("taught")
    dataset = shutil.copytree(squares, root / "dataset")
    teacher = begun(worker_for(dataset, "an"))
    run_epoch(teacher, 1)
    (root / "teacher").mkdir()
    teacher.save(str(root / "teacher"), {SCORE: 0.0})
    predict = PredictConfig(
        checkpoint=str(root / "teacher"),
        output=str(root / "predictions"),
        dataset=str(dataset),
        split="train",
        top_k=0,
        threshold=0.0,
    )
    part_predictor = PartPredictor(predict, str(root / "teacher"), threads=1)
    for part in predict_plan.parts(predict):
        part_predictor({"item": part})
    options = ReshardOptions(dataset=str(dataset), confidences=root / "predictions")
    reshard_confidences(options)
    return dataset


def test_the_teachers_word_arrives_but_where_a_human_spoke(taught: Path) -> None:
    dataset = Dataset.open(taught)
    table = ConfidenceTable.read(taught / "confidences/predictions/train.parquet")
    assert len(table.classes_E) == 96 * 8
    parts = sorted((taught.parent / "predictions").glob("part-*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    said = {
        (int(row["image"], 16), k): p
        for row in rows
        for k, p in zip(row["class_index"], row["probability"], strict=True)
    }
    cpu = torch.device("cpu")
    options = {"batch_size": 32, "image_size": 32, "confidences": "predictions"}
    split = LabelledSplit.open(dataset, "train", None, cpu, **options)
    seen = 0
    for batch in split.epoch(0):
        values_BK = batch.dense_confidences()
        assert values_BK is not None
        labels_BK = batch.dense()
        assert torch.equal(values_BK.isnan(), labels_BK != -1)
        for b, k in (labels_BK == -1).nonzero().tolist():
            assert values_BK[b, k].item() == said[int(batch.image_ids_B[b]), k]
            seen += 1
    assert seen == 480


def test_the_student_trains_on_them(taught: Path, tmp_path: Path) -> None:
    values = ConfidenceTable.read(taught / "confidences/predictions/train.parquet").values_E
    threshold = f"threshold={float(np.quantile(values, 0.7)):.4f}"
    changes = {"confidences": "predictions", "storage": str(tmp_path), "name": "student"}
    student = worker_for(
        taught, "vlpl", "warmup_epochs=1", threshold, candidates_per_epoch=50, **changes
    )
    begun(student)
    run_epoch(student, 1)
    run_epoch(student, 2)
    first, second = candidates.read_run(str(tmp_path / "student"), Dataset.open(taught).classes)
    assert first.modified == 0
    table = student.images.join.confidences
    assert table is not None
    assert second.modified == np.count_nonzero(table.values_E >= float(threshold[10:])) > 0
    found = second.with_confidences(table).confidences_N
    np.testing.assert_array_equal(second.confidences_N, found)
    assert found is not None
    assert not np.isnan(found).any()
    gaps_N = np.abs(second.probabilities_N - found)
    by_disagreement = second.by_disagreement()
    assert by_disagreement.classes_N[0] == second.classes_N[np.argmax(gaps_N)]
    assert (
        np.diff(np.abs(by_disagreement.probabilities_N - by_disagreement.confidences_N)) <= 0
    ).all()
    assert len(second.select(top=7).confidences_N) == 7


def test_training_ranks_and_evaluation_know_nothing_of_them(taught: Path, squares: Path) -> None:
    """With a method that uses none, weights and validation are those of the dataset without."""
    metrics = []
    for dataset, more in ((squares, {}), (taught, {"confidences": "predictions"})):
        worker = begun(worker_for(dataset, "ll-r", **more))
        run_epoch(worker, 1)
        metrics.append(worker.validate())
    timeless = [{k: v for k, v in found.items() if "map" in k.lower()} for found in metrics]
    assert timeless[0] == timeless[1]
    assert timeless[0]
    with pytest.raises(InputError, match=r"no confidences 'predictons'.*did you mean predictions"):
        worker_for(taught, "vlpl", confidences="predictons")
