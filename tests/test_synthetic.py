"""The demo dump: repeatable, true to its ground truth, and in Open Images V3's exact layout."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from sharding.errors import InputError
from sharding.synthetic import DumpOptions, make_dump
from sharding.synthetic.vocabulary import OUTSIDE, Vocabulary

OPTIONS = DumpOptions(train=220, validation=30, test=40, side=96)
SPLITS = ("train", "validation", "test")
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dump")
    assert make_dump(OPTIONS, output)
    return output


def rows(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def human(dump: Path, split: str) -> Rows:
    return rows(dump / "2017_11" / split / "annotations-human.csv")


def truth(dump: Path, split: str) -> dict[str, set[str]]:
    present: dict[str, set[str]] = defaultdict(set)
    for row in rows(dump / "ground_truth" / f"{split}.csv"):
        present[row["ImageID"]].add(row["LabelName"])
    return present


def content(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_bytes_depend_on_the_seed_and_nothing_else(dump: Path, tmp_path: Path) -> None:
    make_dump(OPTIONS, tmp_path / "two", workers=2)
    assert content(tmp_path / "two") == content(dump)
    small = DumpOptions(train=3, validation=1, test=1, side=96)
    other = DumpOptions(train=3, validation=1, test=1, side=96, seed=1)
    make_dump(small, tmp_path / "a")
    make_dump(other, tmp_path / "b")
    assert content(tmp_path / "a") != content(tmp_path / "b")


def test_the_same_options_again_do_nothing(dump: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dump.rglob("*")}
    assert not make_dump(OPTIONS, dump)
    assert {path: path.stat().st_mtime_ns for path in dump.rglob("*")} == before


def test_an_unfinished_dump_is_made_again(tmp_path: Path) -> None:
    options = DumpOptions(train=3, validation=1, test=1, side=96)
    make_dump(options, tmp_path)
    whole = content(tmp_path)
    (tmp_path / "dump.json").unlink()
    (tmp_path / "2017_11/train/images.csv").unlink()
    assert make_dump(options, tmp_path)
    assert content(tmp_path) == whole


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_true(dump: Path, split: str) -> None:
    present = truth(dump, split)
    outside = {mid for mid, _ in OUTSIDE}
    checked = Counter[str]()
    for row in human(dump, split):
        if row["LabelName"] not in outside:
            assert row["Confidence"] == str(int(row["LabelName"] in present[row["ImageID"]]))
            checked[row["Confidence"]] += 1
    assert min(checked.values()) > 50


def test_training_is_partial_and_the_rest_is_not(dump: Path) -> None:
    def share_of_truth_annotated(split: str) -> float:
        present = truth(dump, split)
        positive = [r for r in human(dump, split) if r["Confidence"] == "1"]
        found = sum(r["LabelName"] in present[r["ImageID"]] for r in positive)
        return found / sum(map(len, present.values()))

    assert 0.58 < share_of_truth_annotated("train") < 0.74
    assert share_of_truth_annotated("test") == 1


def test_statistics_are_those_of_open_images(dump: Path) -> None:
    train = human(dump, "train")
    images = len({row["ImageID"] for row in train})
    positive = sum(row["Confidence"] == "1" for row in train) / len(train)
    assert 5.2 < len(train) / images < 6.3
    assert 0.43 < positive < 0.53
    assert 12.5 < len(human(dump, "test")) / OPTIONS.test < 14.5
    sources = Counter(row["Source"] for row in train)
    assert 0.01 < sources["crowdsource-verification"] / len(train) < 0.12
    assert sources.keys() == {"verification", "crowdsource-verification"}


def test_negatives_are_hard(dump: Path) -> None:
    vocabulary = Vocabulary.make(OPTIONS.classes, OPTIONS.seed)
    index = {kind.mid: i for i, kind in enumerate(vocabulary.kinds)}
    present = truth(dump, "train")
    closest = [
        max(
            vocabulary.kinship_KK[index[row["LabelName"]], index[p]]
            for p in present[row["ImageID"]]
        )
        for row in human(dump, "train")
        if row["Confidence"] == "0" and row["LabelName"] in index
    ]
    assert np.mean(np.array(closest) == 2) > 0.75


def test_the_tail_is_long() -> None:
    weights_K = Vocabulary.make(60, 0).weights_K
    assert weights_K.max() / weights_K.min() > 8
    assert weights_K.sum() == pytest.approx(1)


@pytest.mark.parametrize("count", [5, 60, 90])
def test_classes_are_distinct_and_listed_as_in_the_real_file(count: int) -> None:
    kinds = Vocabulary.make(count, 3).kinds
    assert len({kind.mid for kind in kinds}) == len({kind.name for kind in kinds}) == count
    keys = [kind.mid.replace("_", "") for kind in kinds]
    assert keys == sorted(keys)


def test_the_tree_and_headers_are_v3s(dump: Path, shared: Path) -> None:
    real = shared / "data/openimages/v3_2017_11/2017_11"
    for split in SPLITS:
        for name in ("annotations-human.csv", "images.csv"):
            ours = (dump / "2017_11" / split / name).read_bytes().splitlines()[0]
            theirs = (real / split / name).read_bytes().splitlines()[0]
            assert ours == theirs
    descriptions = (dump / "2017_11/class-descriptions.csv").read_bytes()
    assert 0 < descriptions.count(b"\r\n") < descriptions.count(b"\n")
    assert b'"' in descriptions


def test_images_decode_and_are_described(dump: Path) -> None:
    listed = rows(dump / "2017_11/test/images.csv")
    assert len(listed) == OPTIONS.test
    for row in listed:
        content_of = (dump / "images/test" / f"{row['ImageID']}.jpg").read_bytes()
        assert len(content_of) == int(row["OriginalSize"])
        md5 = hashlib.md5(content_of, usedforsecurity=False).digest()
        assert base64.b64encode(md5).decode() == row["OriginalMD5"]
        image_HWC = cv2.imdecode(np.frombuffer(content_of, np.uint8), cv2.IMREAD_COLOR)
        assert max(image_HWC.shape[:2]) == OPTIONS.side


def test_ids_are_dense_at_the_low_end(dump: Path) -> None:
    ids = np.array(
        [int(r["ImageID"], 16) for s in SPLITS for r in rows(dump / f"2017_11/{s}/images.csv")]
    )
    assert len(set(ids.tolist())) == sum(OPTIONS.images.values())
    assert np.median(ids) < ids.max() / 6


def test_boxes_hold_their_objects(dump: Path) -> None:
    boxes = rows(dump / "ground_truth/test-boxes.csv")
    present = truth(dump, "test")
    for box in boxes:
        assert box["LabelName"] in present[box["ImageID"]]
        assert 0 <= float(box["XMin"]) < float(box["XMax"]) <= 1
        assert 0 <= float(box["YMin"]) < float(box["YMax"]) <= 1


@pytest.mark.parametrize("wrong", [{"classes": 91}, {"classes": 2}, {"train": 0}, {"side": 10}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="pass"):
        DumpOptions(**wrong)
