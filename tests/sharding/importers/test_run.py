"""The import job as people run it, and what every other job makes of its dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.labels import LabelledSplit
from sharding.commands.options import ReshardOptions
from sharding.commands.reshard import reshard
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.importers.run import import_collection
from sharding.manifest import Dataset
from sharding.sources.named import image_id_of
from tests.sharding.importers.test_readers import many_voc, present
from tests.support.foreign import write_text, write_voc
from tests.support.home import Home

ARGUMENTS = ("--format", "voc", "--source", "in", "--output", "out/dataset", "--single-positive")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    many_voc(home.directory / "in")
    return home


@pytest.mark.ray
def test_one_command_makes_a_dataset_that_is_well(home: Home) -> None:
    output = home.run("import_dataset.py", *ARGUMENTS, "--shorter-side", "8")
    assert "24 images in 1 shard" in output
    assert "60 shrunk" in output
    assert "the papers count 4,574 / 1,143 / 5,823, here it is 24 / 6 / 30" in output
    output = home.run("verify_dataset.py", "--dataset", "out/dataset")
    assert "is intact: 60 images" in output
    assert "labels complete, single-positive-1200" in output


@pytest.mark.ray
def test_bad_options_are_told_without_a_traceback(home: Home) -> None:
    for arguments, line in (
        (("--validation-share", "1"), "--validation-share is 1.0"),
        (
            ("--format", "coco"),
            "instances_train2014.json: is missing, as are all of 2014 and 2017. Fix: ",
        ),
        (("--source", "away"), "error: away: folder is missing. Fix: check --source"),
    ):
        output = home.run("import_dataset.py", *ARGUMENTS, *arguments, status=2)
        assert line in output
        assert "Traceback" not in output


@pytest.fixture
def imported(tmp_path: Path) -> Dataset:
    settings = ImportOptions(
        format="voc",
        source=write_voc(tmp_path / "source"),
        output=tmp_path / "dataset",
        single_positive=True,
        validation_share=0.0,
    )
    import_collection(prepare_import(settings), map)
    return Dataset.open(settings.output)


def test_the_loader_joins_each_version_of_the_labels(imported: Dataset) -> None:
    for version, observed in (("complete", 2 * 20), ("single-positive-1200", 2)):
        split = LabelledSplit.open(imported, "train", version, CPU, batch_size=2, image_size=16)
        (batch,) = list(split.epoch(1))
        assert sorted(batch.image_ids_B.tolist()) == sorted(
            int(image_id_of(f"2008_00000{number}.jpg"), 16) for number in (1, 3)
        )
        assert int((batch.dense() >= 0).sum()) == observed


def test_exports_come_back_by_resharding(imported: Dataset, tmp_path: Path) -> None:
    image_id = image_id_of("2008_000003.jpg")
    rows = ["ImageID,Source,LabelName,Confidence", f"{image_id},reviewed,/m/voc_sheep,1"]
    write_text(tmp_path / "export-1/train/corrections.csv", rows)
    options = ReshardOptions(dataset=imported.directory, annotations=tmp_path / "export-1")
    name = reshard(options, map).name
    dataset = Dataset.open(imported.directory)
    assert present(dataset, "train", name)["2008_000003.jpg"] == ["aeroplane", "sheep"]
    single = dataset.labels("train", "single-positive-1200")
    assert np.count_nonzero(single.states_E == 1) == 2
