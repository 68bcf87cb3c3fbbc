"""The import job as people run it, and what every other job makes of its dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.labels import LabelledSplit
from sharding.commands.options import ReshardOptions
from sharding.commands.reshard import reshard
from sharding.commands.summary import Resharded
from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import ImportJob, prepare_import
from sharding.importers.run import Imported, import_collection
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.maintenance.checks import check_dataset
from sharding.manifest import Dataset
from sharding.sources.named import image_id_of
from tests.sharding.importers.test_readers import many_voc, present
from tests.support.foreign import write_csv, write_text, write_voc
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


TABLE = [
    "image,labels,split",
    *("a.jpg,cat,train", "b.jpg,cat|cow,train", "c.jpg,dog,train"),
    *("d.jpg,cat,validation", "e.jpg,dog,test"),
]
NAMES = [f"{letter}.jpg" for letter in "abcde"]


def table_job(folder: Path, lines: list[str], name: str | None = None, **more: object) -> ImportJob:
    write_text(folder / "labels.csv", lines)
    settings = {"format": "csv", "source": folder, "output": folder / "dataset", "name": name}
    return prepare_import(ImportOptions(**settings, **more))


def test_mended_labels_come_over_the_same_images(tmp_path: Path) -> None:
    write_csv(tmp_path, TABLE, NAMES)
    import_collection(table_job(tmp_path, TABLE), map)
    directory = tmp_path / "dataset"
    tars = {path: path.stat().st_mtime_ns for path in directory.glob("images/*.tar")}
    mended = [
        "image,labels,split",
        *("a.jpg,cat|dog,train", "b.jpg,cat,train", "c.jpg,,test"),  # no cow, and c would move
        *("d.jpg,dog,validation", "e.jpg,dog,test", "f.jpg,cat,train"),  # f has no pixels
    ]
    with pytest.raises(InputError, match=r"other labels or options .* --labels NAME"):
        import_collection(table_job(tmp_path, mended), map)
    done = import_collection(table_job(tmp_path, mended, "a-mended"), map)
    assert isinstance(done, Resharded)
    dataset = Dataset.open(directory)
    assert list(dataset.manifest.labels) == ["a-mended", "complete"]
    assert dataset.manifest.default_labels == "complete"
    assert present(dataset, "train", "a-mended") == {
        "a.jpg": ["cat", "dog"],
        "b.jpg": ["cat"],
        "c.jpg": [],
    }
    assert present(dataset, "test", "a-mended") == {"e.jpg": ["dog"]}
    assert present(dataset, "train", "complete")["b.jpg"] == ["cat", "cow"]
    version = dataset.manifest.labels["a-mended"].splits
    assert version["train"].negatives == 3 * 3 - 3, "cow is absent everywhere"
    assert "1 labelled images, listed in" in str(done)
    assert {path: path.stat().st_mtime_ns for path in directory.glob("images/*.tar")} == tars
    assert check_dataset(dataset, map) == []

    again = import_collection(table_job(tmp_path, mended, "a-mended"), map)
    assert isinstance(again, Resharded)
    with pytest.raises(InputError, match="labels 'a-mended' are there already, from another table"):
        import_collection(table_job(tmp_path, TABLE, "a-mended"), map)
    job = table_job(tmp_path, [*TABLE, "f.jpg,horse,train"], "more")
    with pytest.raises(InputError, match="1 class not of this dataset: horse"):
        import_collection(job, map)
    assert isinstance(import_collection(table_job(tmp_path, TABLE), map), Imported)


def test_what_a_partial_table_no_longer_names_is_unobserved(tmp_path: Path) -> None:
    partial = ["image,labels,negatives,split", "a.jpg,cat,cow,train", "b.jpg,cow,,train"]
    rest = ["d.jpg,cat,,validation", "e.jpg,cat,,test"]
    write_csv(tmp_path, [*partial, *rest], NAMES)
    import_collection(table_job(tmp_path, [*partial, *rest]), map)
    mended = ["image,labels,negatives,split", "a.jpg,cat,,train", "b.jpg,,cat,train", *rest]
    import_collection(table_job(tmp_path, mended, "mended"), map)
    table = Dataset.open(tmp_path / "dataset").labels("train", "mended")
    labels_NK = table.dense(table.rows_of(parse_image_ids(list(map(image_id_of, NAMES[:2])))), 2)
    assert labels_NK.tolist() == [[POSITIVE, UNOBSERVED], [NEGATIVE, UNOBSERVED]]
