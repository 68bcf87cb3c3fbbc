"""Boxes are found by image and class, and a map points into one or it does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.pointing_game import Boxes, points_inside
from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.manifest import Dataset

V3 = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded\n"


def test_the_columns_of_v3_and_later_are_read_by_name(squares: Path, tmp_path: Path) -> None:
    classes = Dataset.open(squares).classes
    file = tmp_path / "boxes.csv"
    file.write_text(
        V3
        + "0000000000000002,x,/m/0001,1,0.5,0.6,0.7,0.8,0\n"
        + "00000000000000ff,x,/m/0001,1,0.1,0.2,0.3,0.4,0\n"
        + "0000000000000002,x,/m/0003,1,0.0,1.0,0.0,1.0,1\n"
        + "0000000000000002,x,/m/nobody,1,0.0,1.0,0.0,1.0,1\n"
        + "0000000000000002,x,/m/0001,1,0.1,0.2,0.1,0.2,0\n"
    )
    boxes = Boxes.read(file, classes)
    assert boxes.of(2, 1).tolist() == [[0.5, 0.6, 0.7, 0.8], [0.1, 0.2, 0.1, 0.2]]
    assert boxes.of(255, 1).tolist() == [[0.1, 0.2, 0.3, 0.4]]
    assert len(boxes.of(2, 0)) == len(boxes.of(3, 1)) == 0
    assert len(boxes.keys_N) == 4


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30),
    st.integers(0, 6),
    st.integers(0, 4),
)
def test_lookup_finds_exactly_the_boxes_of_a_pair(
    pairs: list[tuple[int, int]], key: int, class_index: int
) -> None:
    pairs.sort()
    keys_N = np.array([pair[0] for pair in pairs], np.uint64)
    classes_N = np.array([pair[1] for pair in pairs], np.int64)
    edges_N4 = np.arange(4.0 * len(pairs)).reshape(-1, 4)
    boxes = Boxes(keys_N=keys_N, classes_N=classes_N, edges_N4=edges_N4)
    expected = edges_N4[[pair == (key, class_index) for pair in pairs]]
    assert np.array_equal(boxes.of(key, class_index), expected.reshape(-1, 4))


def test_a_map_points_to_the_middle_of_its_highest_cell() -> None:
    cam_HW = np.zeros((2, 4))
    cam_HW[1, 2] = 1  # its middle: 5/8 across, 3/4 down
    assert points_inside(cam_HW, np.array([[0.6, 0.7, 0.7, 0.8]]))
    assert points_inside(cam_HW, np.array([[0, 0.1, 0, 0.1], [0.6, 0.7, 0.7, 0.8]]))
    assert not points_inside(cam_HW, np.array([[0.6, 0.7, 0.1, 0.3]]))
    assert not points_inside(cam_HW, np.array([[0.7, 0.8, 0.6, 0.7]]))
    assert not points_inside(cam_HW, np.empty((0, 4)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no table of boxes"),
        (V3 + "xyz,x,/m/0001,1,0,1,0,1,0\n", "no table of boxes"),
        (V3 + "0000000000000002,x,/m/else,1,0,1,0,1,0\n", "no box of the dataset's classes"),
    ],
)
def test_what_is_no_table_of_boxes_is_refused(
    squares: Path, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        Boxes.read(file, Dataset.open(squares).classes)
    with pytest.raises(InputError, match="no table of boxes"):
        Boxes.read(tmp_path / "nowhere.csv", Dataset.open(squares).classes)


@pytest.mark.shared
def test_real_boxes_of_v3_are_read(shared: Path) -> None:
    file = shared / "data/openimages/v3_2017_11/2017_11/test/annotations-human-bbox.csv"
    lines = file.read_text().splitlines()
    assert lines[0].startswith("ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax")
    mids = {line.split(",")[2] for line in lines[1:]}

    classes = SimpleNamespace(mids=sorted(mids))
    boxes = Boxes.read(file, classes)  # type: ignore[arg-type]
    assert len(boxes.keys_N) == len(lines) - 1
    first = lines[1].split(",")
    key = int(parse_image_ids([first[0]])[0])
    edges = boxes.of(key, classes.mids.index(first[2])).tolist()
    assert [float(value) for value in first[4:8]] in edges
