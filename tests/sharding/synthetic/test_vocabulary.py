"""The demo dump: repeatable, true to its ground truth, and in Open Images V3's exact layout."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import pytest

from sharding.openimages.annotations import read_split
from sharding.openimages.class_list import read_classes
from sharding.openimages.dump import Dump
from sharding.synthetic.dump import make_dump
from sharding.synthetic.options import DumpOptions
from sharding.synthetic.vocabulary import OUTSIDE, Vocabulary

OPTIONS = DumpOptions(train=220, validation=30, test=40, side=96)
SPLITS = ("train", "validation", "test")
HEADERS = {
    "annotations-human.csv": "ImageID,Source,LabelName,Confidence",
    "images.csv": "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,"
    "Title,OriginalSize,OriginalMD5,Thumbnail300KURL",
}
# How the real file quotes: author and title always, nothing else ever.
IMAGE_LINE = re.compile(r'[0-9a-f]{16},\w+,([^",]*,){4}"[^"]*","[^"]*",\d+,[^",]{22}==,[^",]*')


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dump")
    assert make_dump(OPTIONS, output)
    return output


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def human(dump: Path, split: str) -> list[dict[str, str]]:
    return rows(dump / "2017_11" / split / "annotations-human.csv")


def truth(dump: Path, split: str) -> dict[str, set[str]]:
    present: dict[str, set[str]] = defaultdict(set)
    for row in rows(dump / "ground_truth" / f"{split}.csv"):
        present[row["ImageID"]].add(row["LabelName"])
    return present


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_true(dump: Path, split: str) -> None:
    present = truth(dump, split)
    outside = {mid for mid, _ in OUTSIDE}
    checked = Counter[str]()
    for row in human(dump, split):
        if row["LabelName"] not in outside:
            assert row["Confidence"] == str(int(row["LabelName"] in present[row["ImageID"]]))
            checked[row["Confidence"]] += 1
    assert min(checked["0"], checked["1"]) > 50


def test_training_is_partial_and_the_rest_is_not(dump: Path) -> None:
    def share_of_truth_annotated(split: str) -> float:
        present = truth(dump, split)
        positive = [r for r in human(dump, split) if r["Confidence"] == "1"]
        found = sum(r["LabelName"] in present[r["ImageID"]] for r in positive)
        return found / sum(map(len, present.values()))

    assert 0.58 < share_of_truth_annotated("train") < 0.74
    assert share_of_truth_annotated("validation") == share_of_truth_annotated("test") == 1


def test_statistics_are_those_of_open_images(dump: Path) -> None:
    train = human(dump, "train")
    images = len({row["ImageID"] for row in train})
    positive = sum(row["Confidence"] == "1" for row in train) / len(train)
    assert 5.2 < len(train) / images < 6.3
    assert 0.43 < positive < 0.53
    assert 12.5 < len(human(dump, "test")) / OPTIONS.test < 14.5
    sources = Counter(row["Source"] for row in train)
    assert sources.keys() == {"verification", "crowdsource-verification"}
    assert 0.01 < sources["crowdsource-verification"] / len(train) < 0.08
    outside = sum(row["LabelName"] in dict(OUTSIDE) for row in train) / len(train)
    assert 0.03 < outside < 0.09


def test_negatives_are_hard(dump: Path) -> None:
    vocabulary = Vocabulary.make(OPTIONS.classes, OPTIONS.seed)
    index = {kind.mid: i for i, kind in enumerate(vocabulary.kinds)}
    present = truth(dump, "train")
    closest = [
        max(vocabulary.shared_parts_KK[index[row["LabelName"]], index[mid]] for mid in there)
        for row in human(dump, "train")
        if row["Confidence"] == "0" and row["LabelName"] in index
        for there in [present[row["ImageID"]]]
    ]
    assert np.mean(np.array(closest) == 2) > 0.75


@pytest.mark.parametrize("split", SPLITS)
def test_rows_of_an_image_stand_together_in_the_order_of_ids(dump: Path, split: str) -> None:
    runs = [image_id for image_id, _ in groupby(row["ImageID"] for row in human(dump, split))]
    listed = [row["ImageID"] for row in rows(dump / f"2017_11/{split}/images.csv")]
    assert runs == sorted(set(runs))
    assert listed == sorted(set(listed))
    assert set(runs) <= set(listed)


@pytest.mark.parametrize("split", SPLITS)
def test_headers_and_quoting_are_v3s(dump: Path, split: str) -> None:
    for name, header in HEADERS.items():
        content = (dump / "2017_11" / split / name).read_bytes()
        assert content.startswith(f"{header}\n".encode())
        assert b"\r" not in content
    lines = (dump / f"2017_11/{split}/images.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert all(IMAGE_LINE.fullmatch(line) for line in lines)


@pytest.mark.shared
def test_headers_and_quoting_are_those_of_the_real_files(shared: Path) -> None:
    real = shared / "data/openimages/v3_2017_11/2017_11"
    for split in SPLITS:
        for name, header in HEADERS.items():
            assert (real / split / name).read_text(encoding="utf-8").startswith(f"{header}\n")
        lines = (real / split / "images.csv").read_text(encoding="utf-8").split("\n")[1:-1]
        assert all(IMAGE_LINE.fullmatch(line) for line in lines)


def test_descriptions_mix_line_ends_and_quote_what_must_be(dump: Path) -> None:
    content = (dump / "2017_11/class-descriptions.csv").read_bytes()
    assert 0 < content.count(b"\n") - content.count(b"\r\n") < content.count(b"\r\n")
    names = dict(csv.reader(content.decode().splitlines()))
    assert dict(OUTSIDE).items() <= names.items()
    assert any("," in name for name in names.values())
    listed = (dump / "2017_11/classes.txt").read_text().split()
    assert sorted(names) == sorted(listed)


def test_images_decode_and_are_described(dump: Path) -> None:
    for split, count in OPTIONS.images.items():
        listed = rows(dump / f"2017_11/{split}/images.csv")
        assert len(listed) == count == len(list((dump / "images" / split).iterdir()))
        for row in listed:
            content = (dump / "images" / split / f"{row['ImageID']}.jpg").read_bytes()
            assert len(content) == int(row["OriginalSize"])
            md5 = hashlib.md5(content, usedforsecurity=False).digest()
            assert base64.b64encode(md5).decode() == row["OriginalMD5"]
            image_HWC = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            assert max(image_HWC.shape[:2]) == OPTIONS.side


def test_ids_are_dense_at_the_low_end(dump: Path) -> None:
    ids = np.array(
        [int(r["ImageID"], 16) for s in SPLITS for r in rows(dump / f"2017_11/{s}/images.csv")]
    )
    assert len(set(ids.tolist())) == sum(OPTIONS.images.values())
    assert np.median(ids) < ids.max() / 6


def test_boxes_lie_in_the_image_and_name_what_is_there(dump: Path) -> None:
    for split in SPLITS:
        boxes = rows(dump / f"ground_truth/{split}-boxes.csv")
        named = [(box["ImageID"], box["LabelName"]) for box in boxes]
        assert named == [tuple(row.values()) for row in rows(dump / f"ground_truth/{split}.csv")]
        for box in boxes:
            assert 0 <= float(box["XMin"]) < float(box["XMax"]) <= 1
            assert 0 <= float(box["YMin"]) < float(box["YMax"]) <= 1


def test_our_own_reader_finds_nothing_wrong(dump: Path) -> None:
    opened = Dump.open(dump)
    mids = [mid for mid, _ in read_classes(opened)]
    labels = read_split(opened, "train", mids)
    in_file = human(dump, "train")
    assert labels.report["rows"] == len(in_file)
    assert set(labels.unknown_mids) == set(dict(OUTSIDE))
    known = labels.report["positives"] + labels.report["negatives"]
    assert known + sum(labels.unknown_mids.values()) == len(in_file)


@pytest.mark.parametrize("count", [5, 60, 1000])
def test_classes_are_distinct_and_listed_as_in_the_real_file(count: int) -> None:
    vocabulary = Vocabulary.make(count, 3)
    kinds = vocabulary.kinds
    assert len({kind.mid for kind in kinds}) == len({kind.name for kind in kinds}) == count
    mids = [kind.mid for kind in kinds]
    assert mids == sorted(mids, key=lambda mid: mid.replace("_", ""))
    assert all(re.fullmatch(r"/m/0[0-9b-z_]{4,6}", mid) for mid in mids)
    assert vocabulary.weights_K.sum() == pytest.approx(1)


def test_further_parts_leave_the_demos_classes_as_they_are() -> None:
    kinds = Vocabulary.make(60, 0).kinds
    assert {kind.texture for kind in kinds} == {"plain", "striped"}
    assert {kind.shape for kind in kinds} == {"disc", "triangle", "star", "cross", "ring"}
    assert len({kind.colour for kind in kinds}) == 6


def test_the_order_of_classes_is_a_trap_as_in_the_real_file(dump: Path) -> None:
    mids = (dump / "2017_11/classes-trainable.txt").read_text().split()
    assert len(mids) == OPTIONS.classes
    assert mids != sorted(mids)


def test_the_tail_is_long() -> None:
    weights_K = Vocabulary.make(60, 0).weights_K
    assert 8 < weights_K.max() / weights_K.min() < 20
