"""Boxes are found by image and class, and a map points into one or it does not."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config.commands import EvaluateConfig
from pipeline.data.staging import Cache, open_dataset
from pipeline.evaluation.pointing_game import Boxes, points_inside
from pipeline.evaluation.run import Subject
from sharding.commands.options import ShardOptions
from sharding.commands.prepare import prepare
from sharding.commands.shard import shard_dump
from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.manifest import Dataset
from tests.support.models import write_checkpoint
from tests.support.photos import encode, image_ids, write_photo_dump

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


TURNS = (0, 90, 180, 270)
EDGES = (0.7, 0.95, 0.05, 0.2)


@pytest.fixture
def marked(tmp_path: Path) -> tuple[ShardOptions, list[str]]:
    """Write a dump of four images with a white mark in the middle of `EDGES`, and their turns."""
    dump, images = write_photo_dump(tmp_path / "in", {"train": 4})
    ids = image_ids(images, "train")
    rows = ["ImageID,Rotation"]
    pixels_HWC = np.zeros((80, 160, 3), np.uint8)
    pixels_HWC[6:14, 124:140] = 255
    for name, degrees in zip(ids, TURNS, strict=True):
        (images / f"train/{name}.jpg").write_bytes(encode(Image.fromarray(pixels_HWC), quality=95))
        rows.append(f"{name},{degrees}.0")
    listed = tmp_path / "train-images-with-rotation.csv"
    listed.write_text("\n".join(rows) + "\n")
    options = ShardOptions(
        annotations=dump, images=str(images), output=tmp_path / "dataset", rotations=listed
    )
    return options, ids


def write_boxes(path: Path, dataset: Dataset, ids: list[str]) -> Path:
    edges = ",".join(map(str, EDGES))
    path.write_text(
        V3 + "".join(f"{name},x,{dataset.classes.mids[0]},1,{edges},0\n" for name in ids)
    )
    return path


def map_of(dataset: Path, image_id: str) -> np.ndarray:
    """A map that is highest at the mark of an image as its tar holds it."""
    for tar in (dataset / "images").glob("*.tar"):
        with tarfile.open(tar) as archive:
            if f"{image_id}.jpg" in archive.getnames():
                content = archive.extractfile(f"{image_id}.jpg")
                assert content is not None
                cam_HW = np.asarray(Image.open(io.BytesIO(content.read())).convert("L"), float)
                middle = np.argwhere(cam_HW > 128).mean(axis=0).astype(int)
                cam_HW[tuple(middle)] = 999
                return cam_HW
    raise AssertionError(f"{image_id} is in no tar")


def hits(boxes: Boxes, dataset: Path, ids: list[str]) -> list[bool]:
    keys = parse_image_ids(ids).tolist()
    return [
        points_inside(map_of(dataset, name), boxes.of(key, 0))
        for name, key in zip(ids, keys, strict=True)
    ]


@pytest.mark.parametrize("is_url", [False, True])
def test_boxes_turn_with_the_images_of_the_dataset(
    marked: tuple[ShardOptions, list[str]], tmp_path: Path, is_url: bool
) -> None:
    options, ids = marked
    shard_dump(prepare(options), map)
    location = options.output.as_uri() if is_url else str(options.output)
    dataset = open_dataset(location, Cache(directory=tmp_path / "cache"), tars=False)
    file = write_boxes(tmp_path / "boxes.csv", dataset, ids)
    unturned = Boxes.read(file, dataset.classes)
    assert hits(unturned, options.output, ids) == [True, False, False, False]
    boxes = Boxes.of_dataset(file, dataset, location)
    assert hits(boxes, options.output, ids) == [True] * 4
    checkpoint = write_checkpoint(tmp_path / "checkpoint", options.output)
    config = EvaluateConfig(
        checkpoint=str(checkpoint), dataset=str(options.output), split="train", boxes=str(file)
    )
    evaluated = Subject.open(config).boxes
    assert evaluated is not None
    assert np.array_equal(evaluated.edges_N4, boxes.edges_N4)
    edges = [boxes.of(int(key), 0)[0].tolist() for key in parse_image_ids(ids)]
    assert edges[0] == list(EDGES)
    assert edges[1] == pytest.approx([0.05, 0.2, 0.05, 0.3])
    assert edges[2] == pytest.approx([0.05, 0.3, 0.8, 0.95])
    assert edges[3] == pytest.approx([0.8, 0.95, 0.7, 0.95])


def test_boxes_of_images_taken_on_trust_stay_as_they_are(
    marked: tuple[ShardOptions, list[str]], tmp_path: Path
) -> None:
    options, ids = marked
    shard_dump(prepare(dataclasses.replace(options, trust_images=True, shorter_side=None)), map)
    dataset = Dataset.open(options.output)
    file = write_boxes(tmp_path / "boxes.csv", dataset, ids)
    boxes = Boxes.of_dataset(file, dataset, str(options.output))
    assert hits(boxes, options.output, ids) == [True] * 4


def test_a_damaged_table_of_rotations_is_refused(
    marked: tuple[ShardOptions, list[str]], tmp_path: Path
) -> None:
    options, ids = marked
    shard_dump(prepare(options), map)
    dataset = Dataset.open(options.output)
    file = write_boxes(tmp_path / "boxes.csv", dataset, ids)
    table = options.output / "rotations.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"rotations\.parquet: .*hash is not the manifest's"):
        Boxes.of_dataset(file, dataset, str(options.output))
    table.unlink()
    with pytest.raises(InputError, match=r"rotations\.parquet: rotation table is missing"):
        Boxes.of_dataset(file, dataset, str(options.output))
