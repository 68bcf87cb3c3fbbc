"""Write small collections in the official layouts (VOC, COCO, NUS-WIDE, CUB) with tiny JPEGs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sharding.importers.voc import CLASSES as VOC_CLASSES
from tests.support.photos import encode, photo

VOC = {
    "train": {"2008_000003": {"aeroplane": 1}, "2008_000001": {"dog": 1, "person": 1, "cat": 0}},
    "val": {"2009_000001": {"sofa": 1}, "2009_000002": {"sheep": 1, "cow": 0}},
}
"""Flags by image; every class that is not named has -1."""

COCO_CATEGORIES = {3: "car", 1: "person", 90: "toothbrush"}
COCO = {
    "train2014": {99: [3, 3], 100: [1, 90], 9: [1], 7: []},
    "val2014": {42: [90]},
}
"""Categories annotated by image id."""

NUSWIDE = {
    "Train": {"actor/0001_21.jpg": ["sky"], "zoo/0002_3.jpg": ["animal", "sky"], "a/b.jpg": []},
    "Test": {"actor/0003_5.jpg": ["animal"]},
}
CONCEPTS = ("animal", "sky")

CUB = {
    "001.Albatross/A_1.jpg": ("1", "10"),
    "001.Albatross/A_2.jpg": ("0", "01"),
    "002.Crow/C_1.jpg": ("1", "11"),
    "002.Crow/C_2.jpg": ("1", "00"),
}
"""(is training, present per attribute) by image."""


def write_images(folder: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(24, 16, seed=number), quality=80))


def write_text(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_voc(root: Path, flags: Mapping[str, Mapping[str, Mapping[str, int]]] = VOC) -> Path:
    base = root / "VOCdevkit/VOC2012"
    for part, images in flags.items():
        for name in VOC_CLASSES:
            lines = [f"{image} {present.get(name, -1):2d}" for image, present in images.items()]
            write_text(base / "ImageSets/Main" / f"{name}_{part}.txt", lines)
        write_images(base / "JPEGImages", [f"{image}.jpg" for image in images])
    return root


def write_coco(root: Path, annotated: Mapping[str, Mapping[int, Sequence[int]]] = COCO) -> Path:
    categories = [{"id": number, "name": name} for number, name in COCO_CATEGORIES.items()]
    for part, images in annotated.items():
        files = {image: f"COCO_{part}_{image:012d}.jpg" for image in images}
        content = {
            "images": [{"id": image, "file_name": name} for image, name in files.items()],
            "annotations": [
                {"id": 1, "image_id": image, "category_id": k, "segmentation": [[1.0, 2.0]]}
                for image, listed in images.items()
                for k in listed
            ],
            "categories": categories,
        }
        path = root / "annotations" / f"instances_{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        write_images(root / part, list(files.values()))
    return root


def write_nuswide(root: Path) -> Path:
    for part, images in NUSWIDE.items():
        listed = [name.replace("/", "\\") for name in images]
        write_text(root / "ImageList" / f"{part}Imagelist.txt", listed)
        for concept in CONCEPTS:
            flags = [str(int(concept in present)) for present in images.values()]
            truth = root / "Groundtruth/TrainTestLabels"
            write_text(truth / f"Labels_{concept}_{part}.txt", flags)
        write_images(root / "Flickr", list(images))
    return root


def write_cub(root: Path) -> Path:
    base = root / "CUB_200_2011"
    write_text(root / "attributes.txt", ["1 has_bill_shape::curved", "2 has_wing_color::blue"])
    images = list(enumerate(CUB.items(), start=1))
    write_text(base / "images.txt", [f"{n} {name}" for n, (name, _) in images])
    splits = [f"{n} {training}" for n, (_, (training, _)) in images]
    write_text(base / "train_test_split.txt", splits)
    labels = [
        f"{n} {attribute} {value} 3 1.5{' 0' if n == 2 else ''}"
        for n, (_, (_, present)) in images
        for attribute, value in enumerate(present, start=1)
    ]
    write_text(base / "attributes/image_attribute_labels.txt", labels)
    write_images(base / "images", list(CUB))
    return root


def write_csv(root: Path, lines: Sequence[str], images: Sequence[str]) -> Path:
    write_text(root / "labels.csv", lines)
    write_images(root, images)
    return root
