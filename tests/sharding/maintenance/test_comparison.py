"""What a new dump changes, in `diff.json` and in words: with pixels or without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sharding.errors import InputError
from tests.support.commands import relabel, shard
from tests.support.dumpmaking import CLASSES, MIDS, write_classes, write_labels
from tests.support.photos import image_ids, tree, write_photo_dump

SILENT, NOWHERE = "c" * 16, "e" * 16
SIZES = {"train": 6, "validation": 1, "test": 1}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a V3 dump: five training images are at hand, two labelled ones are not.

    Of `SILENT` the dump knows only a class outside its list.
    """
    root = tmp_path_factory.mktemp("original")
    dump, images = write_photo_dump(root, SIZES)
    names = image_ids(images, "train")
    (images / f"train/{names[0]}.jpg").rename(images / f"train/{SILENT}.jpg")
    (images / f"train/{names[1]}.jpg").unlink()
    with (dump / "2017_11/train/annotations-human.csv").open("a") as rows:
        rows.write(f"{SILENT},verification,/m/0outside,1\n")
    shard((dump, images), root / "dataset")
    return root


@pytest.fixture
def dataset(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original / "dataset", tmp_path / "dataset")


def rows_of(original: Path, split: str = "train") -> list[str]:
    path = original / f"dump/2017_11/{split}/annotations-human.csv"
    return path.read_text().splitlines()[1:]


def test_images_are_new_gone_missing_as_before_or_missing_now(
    original: Path, dataset: Path, tmp_path: Path
) -> None:
    old = rows_of(original)
    first, second, third = sorted({row[:16] for row in old} - {SILENT})[:3]
    train = [row for row in old if row[:16] not in (second, third)]
    added = [f"{image},verification,{MIDS[1]},1" for image in (SILENT, NOWHERE)]
    dump = write_labels(tmp_path, {"train": [*train, *added]}, "v4")
    output = relabel(dataset, write_classes(dump, MIDS, "v4"))
    assert output.diff["splits"]["train"] == {
        "labels_added_positive": 2,
        "labels_added_negative": 0,
        "labels_removed_positive": sum(row.endswith("1") for row in old if row not in train),
        "labels_removed_negative": sum(row.endswith("0") for row in old if row not in train),
        "labels_flipped_to_positive": 0,
        "labels_flipped_to_negative": 0,
        "labels_unchanged": len(train) - 1,  # one is outside the list
        "images_new": 2,
        "images_gone": 2,
        "images_without_pixels": 2,
        "images_missing_before": 1,
        "images_now_needing_pixels": 1,
    }
    assert output.wanted == {"train": 2}
    wanted = (dataset / "labels/2018_04/wanted.txt").read_text().split()
    assert wanted == [f"train/{first}", f"train/{NOWHERE}"]
    assert "labelled     2 images that had no label, 2 have none now" in str(output)
    assert ": 1 need them now, 1 were missing before" in str(output)


def test_a_split_that_is_new_is_added_whole(original: Path, tmp_path: Path) -> None:
    rows = {"train": rows_of(original)}
    for name, release in (("older", "v3"), ("newer", "v4")):
        write_classes(write_labels(tmp_path / name, rows, release), MIDS, release)
        rows["validation"] = rows_of(original, "validation")
    dataset = tmp_path / "dataset"
    shard((tmp_path / "older", original / "jpegs"), dataset)
    diff = relabel(dataset, tmp_path / "newer").diff["splits"]
    assert diff["train"]["images_new"] == 0
    assert diff["validation"]["images_new"] == SIZES["validation"]
    assert diff["validation"]["images_now_needing_pixels"] == SIZES["validation"]
    added = diff["validation"]["labels_added_positive"], diff["validation"]["labels_added_negative"]
    assert sum(added) == len(rows["validation"])


def test_a_dump_without_a_class_list_goes_by_the_datasets(
    original: Path, dataset: Path, tmp_path: Path
) -> None:
    train = [*rows_of(original), f"{NOWHERE},verification,/m/0new,1"]
    output = relabel(dataset, write_labels(tmp_path, {"train": train}, "v7"))
    assert output.diff["classes"] is None
    assert "classes      the dump has no list of them; its labels went by" in str(output)
    written = json.loads((dataset / "labels/v7/diff.json").read_text())
    assert written == output.diff
    assert written["splits"]["train"]["labels_unchanged"] == len(train) - 2


@pytest.mark.parametrize("damage", ["the class list", "the labels compared with"])
def test_what_the_report_needs_is_read_before_anything_is_written(
    original: Path, dataset: Path, tmp_path: Path, damage: str
) -> None:
    dump = write_classes(write_labels(tmp_path, {"train": rows_of(original)}, "v4"), MIDS, "v4")
    if damage == "the class list":
        (dump / CLASSES["v4"][0]).write_text("no MID\n")
    else:
        (dataset / "labels/2017_11/train.parquet").unlink()
    before = tree(dataset)
    with pytest.raises(InputError, match=r"is not a MID|label table is missing"):
        relabel(dataset, dump)
    assert tree(dataset) == before
