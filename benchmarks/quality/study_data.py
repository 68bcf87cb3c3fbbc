"""Make the datasets of `benchmarks.quality.results` with the project's own jobs.

``demo`` is the demo's collection, with its complete truth as label version ``complete``.
``groups`` is one of the same kind with 1,000 classes, and its truth.
``photographs`` are the 4,932 of Corel 5k with one of the 81 keywords that 50 or more of them have,
drawn once: 70 % for training, 10 for validation, 20 for test. They may not be published; numbers
of them are.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

WEIGHTS = "mobilenet_v2.pth"
"""MobileNetV2's weights, below the directory of the photographs."""
_SIZES: Mapping[str, Mapping[str, int]] = {
    "demo": {},
    "groups": {"classes": 1000, "train": 8000, "validation": 1000, "test": 4000},
}
_FEWEST_POSITIVES, _TRUTH = 50, "ground_truth"
_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
# The weights at hand were trained on (pixel - 0.5) / 0.5; torchvision's networks get these.
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def make(name: str, work: Path, shared: Path) -> None:
    """Make a collection's dataset below ``work``; what is finished is left as it is.

    Args:
        name: "demo", "groups" or "photographs".
        work: directory of all collections.
        shared: directory with corel5k/ and weights/, for the photographs.
    """
    if name == "photographs":
        _make_photographs(work / name, shared)
    else:
        _make_drawn(work / name, _SIZES[name])


def _make_drawn(directory: Path, sizes: Mapping[str, int]) -> None:
    dump, dataset = directory / "dump", directory / "dataset"
    _job("make-demo", "--output", dump, *(f"--{name}={size}" for name, size in sizes.items()))
    images = ("--images", dump / "images")
    _job("shard", "--annotations", dump, *images, "--output", dataset, "--images-per-shard", "250")
    write_complete(dump, directory / "complete")
    _job("reshard", "--dataset", dataset, "--annotations", directory / "complete")


def write_complete(dump: Path, target: Path) -> None:
    """Write a dump in which every class of every labelled image of a demo's dump is verified.

    Args:
        dump: of the demo's collection, with its truth.
        target: directory of the new dump; its name is that of the label version.
    """
    (labelled,) = dump.glob("20*")
    mids = (labelled / "classes-trainable.txt").read_text().split()
    for split in _SHARES:
        (target / split).mkdir(parents=True, exist_ok=True)
        present = {(row["ImageID"], row["LabelName"]) for row in _rows(dump / _TRUTH / split)}
        rows = _rows(labelled / split / "annotations-human")
        images = dict.fromkeys(row["ImageID"] for row in rows if row["LabelName"] in set(mids))
        with (target / split / "annotations-human.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["ImageID", "Source", "LabelName", "Confidence"])
            for image in images:
                known = ((mid, int((image, mid) in present)) for mid in mids)
                writer.writerows([image, "verification", *each] for each in known)
    for name in ("class-descriptions.csv", "classes-trainable.txt", "classes.txt"):
        shutil.copy(labelled / name, target)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _make_photographs(directory: Path, shared: Path) -> None:
    source = shared / "corel5k"
    directory.mkdir(parents=True, exist_ok=True)
    write_table(source / "labels.csv", directory / "labels.csv")
    found = sorted((shared / "weights").glob("mobilenet_v2*.pth"))
    torch.save(rescaled(torch.load(found[0], weights_only=True)), directory / WEIGHTS)
    table = ("--table", (directory / "labels.csv").resolve(), "--output", directory / "dataset")
    _job("import", "--format", "csv", "--source", source, *table, "--images-per-shard", "250")


def write_table(source: Path, target: Path) -> None:
    """Write the table of the photographs with a frequent keyword, each with its split."""
    with source.open(newline="", encoding="utf-8") as file:
        words = {row["image"]: row["labels_260"].split("|") for row in csv.DictReader(file)}
    counts = Counter(word for image in words.values() for word in image)
    frequent = {word for word, count in counts.items() if word and count >= _FEWEST_POSITIVES}
    labels = {image: sorted(frequent.intersection(found)) for image, found in words.items()}
    images = sorted(image for image, found in labels.items() if found)
    places = np.random.RandomState(0).permutation(len(images)) / len(images)
    edges = np.cumsum([*_SHARES.values()][:-1])
    splits = [[*_SHARES][np.searchsorted(edges, place, side="right")] for place in places]
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "labels", "split"])
        for image, split in zip(images, splits, strict=True):
            writer.writerow([image, "|".join(labels[image]), split])


def rescaled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fold the scale of the pixels into the first convolution and its batch norm."""
    kernel_OIHW = state["features.0.0.weight"]
    shift_O = torch.einsum("oihw,i->o", kernel_OIHW, (MEAN - 0.5) / 0.5)
    return {
        **state,
        "features.0.0.weight": kernel_OIHW * (STD / 0.5).view(1, 3, 1, 1),
        "features.0.1.running_mean": state["features.0.1.running_mean"] - shift_O,
    }


def _job(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "pipeline", *map(str, arguments)], check=True)
