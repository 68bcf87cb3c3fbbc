"""Images that a dump lists and nobody annotated, counted."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from sharding.errors import InputError
from sharding.openimages.annotations import read_split
from sharding.openimages.dump import Dump
from sharding.openimages.image_lists import count_listed
from tests.support.dumpmaking import MIDS, write_labels

IDS = [f"{number:016x}" for number in range(4)]
ROWS = {split: [f"{IDS[0]},verification,{MIDS[0]},1"] for split in ("train", "test")}


def report(root: Path, split: str = "train") -> dict[str, int]:
    dump = Dump.open(root)
    return count_listed(dump, split, read_split(dump, split, MIDS).table)


def test_images_without_any_row_are_counted(tmp_path: Path) -> None:
    dump = write_labels(tmp_path, ROWS, "v3")
    lines = ["ImageID,Subset,Title", *(f'{one},train,"a, b"' for one in IDS)]
    (dump / "2017_11/train/images.csv").write_text("\n".join(lines) + "\n")
    found = report(dump)
    assert (found["listed"], found["listed_without_rows"]) == (4, 3)
    assert "listed" not in report(dump, "test")


def test_the_list_of_all_splits_counts_for_each_its_own(tmp_path: Path) -> None:
    dump = write_labels(tmp_path, ROWS, "v4")
    subsets = ("train", "train", "test", "validation")
    lines = ["ImageID,Subset", *(f"{one},{s}" for one, s in zip(IDS, subsets, strict=True))]
    (dump / "2018_04/image_ids_and_rotation.csv").write_text("\n".join(lines) + "\n")
    of_train, of_test = report(dump), report(dump, "test")
    assert (of_train["listed"], of_train["listed_without_rows"]) == (2, 1)
    assert (of_test["listed"], of_test["listed_without_rows"]) == (1, 1)


def test_a_damaged_list_is_one_line(tmp_path: Path) -> None:
    dump = write_labels(tmp_path, ROWS, "v3")
    (dump / "2017_11/train/images.csv").write_text(f"ImageID,Subset\n{IDS[0]},train\n12,train\n")
    with pytest.raises(InputError, match=r"images.csv, row 3: .*'12' is not 16 lowercase hex"):
        report(dump)


@pytest.mark.shared
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_real_lists(shared: Path, split: str) -> None:
    root = shared / "data/openimages/v3_2017_11"
    columns = []
    for name in ("images.csv", "annotations-human.csv"):
        with (root / "2017_11" / split / name).open(newline="") as stream:
            columns.append({row["ImageID"] for row in csv.DictReader(stream)})
    found = report(root, split)
    assert found["listed"] == len(columns[0])
    assert found["listed_without_rows"] == len(columns[0] - columns[1])
