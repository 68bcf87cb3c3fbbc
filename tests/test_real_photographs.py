"""Shard, train on and score real photographs with real labels, as a V3-style dump, without Ray."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from pipeline.cluster.checkpoints import SCORE
from pipeline.config import precision, presets
from pipeline.training.epoch import run_epoch
from sharding.manifest import Dataset
from tests.support.dumpmaking import write_classes, write_labels
from tests.support.jobs import in_process, run
from tests.support.training import begun, save_run, worker_of

pytestmark = pytest.mark.shared


@pytest.fixture
def home(tmp_path: Path, shared: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    in_process(monkeypatch)
    write_dump(shared / "data/coco256", tmp_path / "coco")
    return tmp_path


def write_dump(coco: Path, output: Path) -> None:
    """Write COCO's full labels as Open Images V3 does: every class of the vocabulary verified.

    train2017 becomes train; val2017 is halved into validation and test.
    """
    rows = list(csv.DictReader((coco / "labels.csv").open(encoding="utf-8")))
    names = sorted({name for row in rows for name in row["labels"].split("|") if name})
    mids = {name: f"/m/0c{number:03d}" for number, name in enumerate(names)}
    descriptions = "".join(f"{mid},{name}\n" for name, mid in mids.items())
    write_classes(output, list(mids.values()), descriptions=descriptions)
    lines: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for number, row in enumerate(rows):
        held_out = "test" if number % 2 else "validation"
        split = "train" if row["split"] == "train2017" else held_out
        image_id = Path(row["image"]).stem.rjust(16, "0")
        target = output / "images" / split / f"{image_id}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(coco / row["image"], target)
        present = set(row["labels"].split("|"))
        for name, mid in mids.items():
            lines[split].append(f"{image_id},verification,{mid},{int(name in present)}")
    write_labels(output, lines)


def test_shard_train_and_evaluate(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not run(
        "shard --annotations coco --images coco/images --output dataset --images-per-shard 32 "
        "--shorter-side 160"
    )
    dataset = Dataset.open(home / "dataset")
    version = dataset.label_version()[1]
    images = {split: file.images for split, file in version.splits.items()}
    assert images == {"train": 128, "validation": 64, "test": 64}
    K = len(dataset.classes)
    assert version.splits["train"].positives + version.splits["train"].negatives == 128 * K
    options = "--preset demo --workers 1 --epochs 1 --max-steps 2 --image-size 96 --dataset"
    config = presets.parse([*options.split(), str(dataset.directory)], "").config
    worker = begun(worker_of(precision.settled(config, None)))
    run_epoch(worker, 1)
    assert 0 < worker.validate()[SCORE] < 100
    save_run(worker, home / "runs/coco")
    capsys.readouterr()
    assert not run("evaluate --checkpoint runs/coco --dataset dataset")
    output = capsys.readouterr().out
    assert "BoostLU off" in output
    assert "BoostLU on" in output
