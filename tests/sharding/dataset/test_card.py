"""The dataset card lets `datasets` read every split, and shows what a manifest says as text."""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Mapping
from pathlib import Path

import datasets
import pytest

from sharding.dataset.card import card
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.importers.run import import_collection
from sharding.manifest import Dataset
from tests.support.foreign import write_csv

SIZES = {"train": 12, "validation": 3, "test": 3}


def make(folder: Path, negatives: Mapping[str, str]) -> Dataset:
    """A dataset of one tar per split, whose images have one positive, and negatives by name."""
    names = {f"{split}{n}.jpg": split for split, size in SIZES.items() for n in range(size)}
    rows = [f"{name},cat,{negatives.get(name, '')},{split}" for name, split in names.items()]
    write_csv(folder, ["image,labels,negatives,split", *rows], list(names))
    output = folder / "dataset"
    options = ImportOptions(format="csv", source=folder, output=output)
    import_collection(prepare_import(options), map)
    return Dataset.open(output)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def negatives_of(dataset: Dataset, *, streaming: bool) -> dict[str, list[list[int]]]:
    """The negatives of each sample by split, as `datasets` streams or stores them."""
    opened = datasets.load_dataset(str(dataset.directory), streaming=streaming)
    return {
        split: [sample["json"]["negatives"] for sample in samples]
        for split, samples in opened.items()
    }


@pytest.mark.parametrize("streaming", [True, False])
def test_samples_without_any_negative_are_read(tmp_path: Path, streaming: bool) -> None:
    empty = {split: [[]] * size for split, size in SIZES.items()}
    assert negatives_of(make(tmp_path, {}), streaming=streaming) == empty


@pytest.mark.parametrize("streaming", [True, False])
def test_the_first_negative_may_come_after_five_samples(tmp_path: Path, streaming: bool) -> None:
    first = make(tmp_path / "a", {})
    with tarfile.open(first.directory / "images/train-000000.tar") as tar:
        last = tar.getnames()[-1].partition(".")[0]
    (row,) = [
        row
        for row in datasets.load_dataset(
            "parquet", data_files=str(first.directory / "names.parquet"), split="train"
        )
        if row["image_id"] == last
    ]
    second = make(tmp_path / "b", {row["name"]: "dog"})
    assert negatives_of(second, streaming=streaming)["train"] == [[]] * 11 + [[1]]


def test_a_card_has_one_kind_of_files_as_datasets_takes_the_reader_of_the_first(
    tmp_path: Path,
) -> None:
    dataset = make(tmp_path, {})
    (name,) = dataset.manifest.labels
    path = dataset.directory / "README.md"
    tables = f"- config_name: labels\n  data_files: labels/{name}/*.parquet\ndataset_info:"
    path.write_text(path.read_text().replace("dataset_info:", tables, 1))
    with pytest.raises(tarfile.ReadError):
        datasets.load_dataset(str(dataset.directory), "labels", streaming=True)


def test_names_and_licences_cannot_bring_markup(on_disk: Path) -> None:
    dataset = Dataset.open(on_disk)
    name, version = dataset.label_version()
    report = {"train": {"license <script> | `x`\nof nobody": 3}}
    hostile = dataclasses.replace(
        version, release="v3\n# <b>", sources={"`<img src=x>`": "0"}, report=report
    )
    manifest = dataclasses.replace(
        dataset.manifest, name="tiny\n## <script>", labels={name: hostile}
    )
    text = card(manifest, dataset.classes)
    assert "# tiny ## &lt;script>" in text
    assert "release v3 # &lt;b>" in text
    assert "| &lt;script> / 'x' of nobody | 3 |" in text
    for hidden in ("<script>", "<b>", "<img"):
        assert hidden not in text
