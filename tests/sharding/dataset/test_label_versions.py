"""Labels of images without pixels are kept, in every version, until tars hold the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from sharding.dataset.label_versions import all_labels, labels_without_pixels
from sharding.errors import InputError
from sharding.importers.options import ImportOptions
from sharding.importers.prepare import prepare_import
from sharding.importers.run import import_collection
from sharding.labels import LabelTable
from sharding.manifest import Dataset
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump
from tests.sharding.test_labels import states
from tests.support import commands
from tests.support.commands import flip_a_byte
from tests.support.dumpmaking import HEADER, MIDS, write_classes, write_labels
from tests.support.photos import image_ids, write_photo_dump

V3, V4, EXPORT = "2017_11", "2018_04", "export-1"
NOWHERE = "e" * 16
MISSING = 3


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Two dumps of the same photographs and an export over the newer one, laid out in a folder.

    Three training images are not in `images` but in `later`; one of V4's is nowhere.
    """

    folder: Path

    @property
    def later(self) -> list[str]:
        return image_ids(self.folder / "later", "train")

    def labels(self, name: str, split: str) -> dict[tuple[int, int], int]:
        """All that a dump says, read without any dataset."""
        return states(read_split(Dump.open(self.folder / name), split, MIDS).table)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("input")
    dump, jpegs = write_photo_dump(folder)
    dump.rename(folder / V3)
    (folder / "later/train").mkdir(parents=True)
    for image_id in image_ids(jpegs, "train")[:MISSING]:
        (jpegs / f"train/{image_id}.jpg").rename(folder / f"later/train/{image_id}.jpg")
    later = Inputs(folder).later
    train = (folder / V3 / V3 / "train/annotations-human.csv").read_text().splitlines()[1:]
    turned = [f"{row[:-1]}{1 - int(row[-1])}" for row in train]
    newer = {"train": [*turned, f"{NOWHERE},verification,{MIDS[3]},1"]}
    write_classes(write_labels(folder / V4, newer, "v4"), MIDS[::-1], "v4")
    (folder / EXPORT / "train").mkdir(parents=True)
    rows = [f"{later[0]},reviewed,{mid},1" for mid in MIDS]
    text = "\n".join((HEADER, *rows, ""))
    (folder / EXPORT / "train/corrections.csv").write_text(text)
    return Inputs(folder)


def shard(inputs: Inputs, dataset: Path, images: str = "jpegs", **more) -> None:
    commands.shard((inputs.folder / V3, inputs.folder / images), dataset, **more)


def relabel(inputs: Inputs, dataset: Path, name: str, **more) -> None:
    commands.relabel(dataset, inputs.folder / name, **more)


def check(dataset: Path, **more) -> list[str]:
    return [str(problem) for problem in commands.check(dataset, **more).remaining]


def of_images(found: Mapping[tuple[int, int], int], keys: set[int]) -> dict[tuple[int, int], int]:
    return {entry: state for entry, state in found.items() if entry[0] in keys}


def wanted(dataset: Path, name: str) -> list[str]:
    path = dataset / f"labels/{name}/wanted.txt"
    return path.read_text().split() if path.exists() else []


def kept_apart(dataset: Path, name: str) -> bool:
    return (dataset / f"labels/{name}/train.without_pixels.parquet").exists()


def settled(inputs: Inputs, dataset: Path) -> None:
    """Every label of either dump is over the shards now, but for the image that is nowhere."""
    assert check(dataset) == []
    opened = Dataset.open(dataset)
    table = opened.labels("train", V3)
    assert states(table) == inputs.labels(V3, "train")
    assert states(opened.labels("train", V4)) == of_images(
        inputs.labels(V4, "train"), set(table.image_ids_N.tolist())
    )
    assert (wanted(dataset, V3), wanted(dataset, V4)) == ([], [f"train/{NOWHERE}"])
    assert (kept_apart(dataset, V3), kept_apart(dataset, V4)) == (False, True)
    for name, missing in ((V3, 0), (V4, 1)):
        version = opened.manifest.labels[name]
        assert version.report["train"]["images_without_pixels"] == missing
        assert version.splits["train"].images_without_pixels == missing
    assert "| train | 24 | " in (dataset / "README.md").read_text()


@pytest.fixture
def dataset(inputs: Inputs, tmp_path: Path) -> Path:
    """V3 over the images at hand."""
    shard(inputs, tmp_path / "dataset")
    return tmp_path / "dataset"


def test_pixels_that_come_with_the_older_dump_find_the_newer_labels(
    inputs: Inputs, dataset: Path
) -> None:
    relabel(inputs, dataset, V4)
    waiting = [f"train/{image_id}" for image_id in inputs.later]
    assert wanted(dataset, V3) == waiting
    assert wanted(dataset, V4) == [*waiting, f"train/{NOWHERE}"]
    shard(inputs, dataset, images="later", retry_failed=True)
    settled(inputs, dataset)


def test_pixels_that_come_with_the_newer_dump_find_the_older_labels(
    inputs: Inputs, dataset: Path
) -> None:
    relabel(inputs, dataset, V4, images=str(inputs.folder / "later"))
    settled(inputs, dataset)


def test_pixels_that_come_one_by_one_find_their_labels(
    inputs: Inputs, dataset: Path, tmp_path: Path
) -> None:
    relabel(inputs, dataset, V4)
    for image_id in inputs.later:
        one = tmp_path / image_id / "train"
        one.mkdir(parents=True)
        name = f"{image_id}.jpg"
        (one / name).write_bytes((inputs.folder / "later/train" / name).read_bytes())
        assert kept_apart(dataset, V3)
        relabel(inputs, dataset, V4, images=str(one.parent), rewrite=True)
        assert check(dataset) == []
        assert f"train/{image_id}" not in wanted(dataset, V3)
    settled(inputs, dataset)


def test_an_export_keeps_what_its_base_says_of_images_without_pixels(
    inputs: Inputs, dataset: Path
) -> None:
    relabel(inputs, dataset, V4)
    relabel(inputs, dataset, EXPORT, base=V4)
    reviewed = {(int(inputs.later[0], 16), k): 1 for k in range(len(MIDS))}
    expected = {**inputs.labels(V4, "train"), **reviewed}
    assert states(all_labels(Dataset.open(dataset), "train", EXPORT)) == expected
    shard(inputs, dataset, images="later", retry_failed=True)
    settled(inputs, dataset)
    keys = {int(NOWHERE, 16)}
    table = Dataset.open(dataset).labels("train", EXPORT)
    assert states(table) == {e: s for e, s in expected.items() if e[0] not in keys}


def test_each_version_is_a_configuration_of_the_labels_folder_for_datasets(
    inputs: Inputs, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    relabel(inputs, dataset, V4)
    manifest = Dataset.open(dataset).manifest
    for name, version in manifest.labels.items():
        tables = datasets.load_dataset(f"{dataset}/labels", name)
        streamed = datasets.load_dataset(f"{dataset}/labels", name, streaming=True)
        by_folder = datasets.load_dataset(str(dataset), data_dir=f"labels/{name}")  # as of the hub
        assert set(tables) == set(version.splits)
        for split, file in version.splits.items():
            files = [file, *filter(None, [file.without_pixels])]
            rows = [row for each in files for row in pq.read_table(dataset / each.path).to_pylist()]
            assert tables[split].to_list() == list(streamed[split]) == rows
            assert sorted(map(str, by_folder[split])) == sorted(map(str, rows))
    assert kept_apart(dataset, V4)
    default = datasets.load_dataset_builder(f"{dataset}/labels")
    assert default.config.name == manifest.default_labels
    assert check(dataset) == []


def test_rows_that_a_killed_job_left_in_both_tables_count_once(
    inputs: Inputs, dataset: Path
) -> None:
    opened = Dataset.open(dataset)
    apart = labels_without_pixels(opened, "train", V3)
    assert apart.image_ids_N.tolist() == [int(image_id, 16) for image_id in inputs.later]
    before = states(all_labels(opened, "train", V3))
    assert before == inputs.labels(V3, "train")
    grown = all_labels(opened, "train", V3)
    grown.select(grown.image_ids_N[:-1], list(grown.shards)[:-1]).write(
        dataset / f"labels/{V3}/train.parquet"
    )
    assert states(all_labels(opened, "train", V3)) == before
    assert len(all_labels(opened, "train", V3)) == len(grown)


@pytest.mark.parametrize("damage", [Path.unlink, flip_a_byte])
def test_a_lost_table_is_told_and_comes_back_from_the_dump(
    inputs: Inputs, dataset: Path, damage
) -> None:
    relabel(inputs, dataset, V4)
    path = dataset / f"labels/{V4}/train.without_pixels.parquet"
    content = path.read_bytes()
    damage(path)
    (output,) = check(dataset, repair=True)
    assert f"reshard with --labels {V4} and what it was made of" in output
    if not path.exists():
        with pytest.raises(InputError, match=f"missing.*reshard with --labels {V4}"):
            shard(inputs, dataset, images="later", retry_failed=True)
    relabel(inputs, dataset, V4)
    assert path.read_bytes() == content
    shard(inputs, dataset, images="later", retry_failed=True)
    settled(inputs, dataset)


def test_a_table_that_no_version_names_goes(inputs: Inputs, dataset: Path) -> None:
    path = dataset / f"labels/{V3}/validation.without_pixels.parquet"
    for mend in (
        lambda: check(dataset, repair=True),
        lambda: shard(inputs, dataset, retry_failed=True),
    ):
        LabelTable.from_lists([NOWHERE], [[1]], [[]]).write(path)
        assert len(check(dataset)) == 1
        mend()
        assert not path.exists()
        assert check(dataset) == []


def test_an_imports_lost_table_comes_back_by_repeating_it(inputs: Inputs, tmp_path: Path) -> None:
    dataset, table = tmp_path / "dataset", tmp_path / "labels.csv"
    at_hand = image_ids(inputs.folder / "jpegs", "train")
    rows = [f"{image_id}.jpg,cat|dog" for image_id in (*at_hand, NOWHERE)]
    table.write_text("\n".join(["image,labels", *rows, ""]))
    options = ImportOptions(
        format="csv",
        source=inputs.folder / "jpegs/train",
        table=table,
        output=str(dataset),
        single_positive=True,
    )
    import_collection(prepare_import(options), map)
    assert check(dataset) == []
    (kept, one_each) = sorted(dataset.glob("labels/*/train.without_pixels.parquet"))
    before = {path: path.read_bytes() for path in (kept, one_each)}
    for path in before:
        path.unlink()
        (output,) = check(dataset, repair=True)
        assert f"repeat the command that wrote labels {path.parent.name}" in output
        import_collection(prepare_import(options), map)
        assert check(dataset) == []
        assert path.read_bytes() == before[path]
