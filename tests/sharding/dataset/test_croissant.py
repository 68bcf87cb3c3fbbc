"""`croissant.json` is valid Croissant 1.1, and its own library reads images and labels by it."""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import mlcroissant
import pytest
from PIL import Image

from sharding.image_ids import format_image_ids
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.importers.run import import_collection
from sharding.manifest import Dataset
from tests.support.commands import check
from tests.support.foreign import write_csv
from tests.support.photos import image_ids, tree


@pytest.fixture
def opened(on_disk: Path) -> mlcroissant.Dataset:
    return mlcroissant.Dataset(jsonld=on_disk / "croissant.json")


@pytest.fixture
def dataset_copy(on_disk: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(on_disk, tmp_path / "copy"))


def rows(dataset: mlcroissant.Dataset, record_set: str) -> list[dict[str, Any]]:
    """Rows of a record set by the last part of each field's name."""
    return [
        {name.rpartition("/")[2]: value for name, value in row.items()}
        for row in dataset.records(record_set)
    ]


def test_nothing_is_wrong_with_it(opened: mlcroissant.Dataset, caplog) -> None:
    caplog.set_level(logging.WARNING)
    assert opened.metadata.ctx.is_v1_1()
    assert not opened.metadata.ctx.issues.errors
    for warning in opened.metadata.ctx.issues.warnings:  # what only a publisher knows
        assert "citeAs" in warning or "datePublished" in warning
    assert "@context" not in caplog.text


def test_it_says_what_the_three_states_mean(opened: mlcroissant.Dataset) -> None:
    metadata = opened.metadata
    for text in (metadata.description, *metadata.data_annotation_protocol):
        assert "unobserved (-1" in str(text)
        assert "must not be read as absent" in str(text)
    assert [str(licence) for licence in metadata.license] == [
        "https://creativecommons.org/licenses/by/4.0/",
        "https://creativecommons.org/licenses/by/2.0/",
    ]
    for field in ("data_biases", "data_limitations", "personal_sensitive_information"):
        assert getattr(metadata, field), field


def test_its_library_reads_labels_and_classes(opened, on_disk: Path) -> None:
    dataset = Dataset.open(on_disk)
    table = dataset.labels("train")
    read = rows(opened, "labels/2017_11/train")
    assert [row["image_id"].decode() for row in read] == format_image_ids(table.image_ids_N)
    first = table.observed(table.rows_of(table.image_ids_N[:1]))
    for column, state in (("positives", 1), ("negatives", 0)):
        expected = first.classes_E[first.states_E == state].tolist()
        assert list(read[0][column]) == expected
    assert [row["mid"].decode() for row in rows(opened, "classes")] == list(dataset.classes.mids)


def test_its_library_reads_images(opened, inputs) -> None:
    read = rows(opened, "images/test")
    assert sorted(row["image_id"].decode() for row in read) == image_ids(inputs[1], "test")
    image = read[0]["image"]
    image = image if isinstance(image, Image.Image) else Image.open(io.BytesIO(image))
    assert image.size == (112, 96)


def test_what_the_publisher_adds_stays(dataset_copy: Path) -> None:
    path = dataset_copy / "croissant.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "url": "https://example.org", "license": "ours"}))
    assert check(dataset_copy).intact
    (dataset_copy / "_info.json").unlink()
    assert check(dataset_copy, repair=True).intact
    again = json.loads(path.read_text())
    assert again == {**content, "url": "https://example.org"}


@pytest.mark.parametrize(
    "name",
    ["croissant.json", ".nv-meta/dataset.yaml", ".nv-meta/split.yaml", ".nv-meta/.info.json"],
)
def test_a_lost_or_wrong_one_is_mended(dataset_copy: Path, name: str) -> None:
    before = tree(dataset_copy)
    (dataset_copy / name).unlink()
    assert f"{name}: missing" in str(check(dataset_copy))
    assert check(dataset_copy, repair=True).intact
    assert tree(dataset_copy) == before
    if name.endswith(".json"):
        text = (dataset_copy / name).read_text()
        (dataset_copy / name).write_text(text.replace("train-000000", "train-000009"))
        assert f"{name}: differs from the manifest" in str(check(dataset_copy))
        assert check(dataset_copy, repair=True).intact
        assert tree(dataset_copy) == before


def test_a_dataset_of_0_1_0_has_none_and_is_intact(dataset_copy: Path) -> None:
    for path in (dataset_copy / "croissant.json", *(dataset_copy / ".nv-meta").iterdir()):
        path.unlink()
    assert check(dataset_copy).intact


def test_an_import_has_its_own_terms(tmp_path: Path) -> None:
    lines = ["image,labels,split", "a.jpg,cat,train", "b.jpg,dog,test"]
    write_csv(tmp_path, lines, ["a.jpg", "b.jpg"])
    options = ImportOptions(
        format="csv", source=tmp_path, output=tmp_path / "d", allow_empty=("validation",)
    )
    import_collection(prepare_import(options), map)
    opened = mlcroissant.Dataset(jsonld=tmp_path / "d/croissant.json")
    assert "say nothing about their licence" in str(opened.metadata.license[0])
    assert Dataset.open(tmp_path / "d").manifest.name == str(opened.metadata.name)
