"""What an evaluation leaves in MLflow: pictures as series and as one sheet that is easy to find."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from pipeline.evaluation import publish
from pipeline.inference.cams import ExplainedImage, Explanation
from sharding.manifest import Dataset


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}
        self.artifacts: dict[str, bytes] = {}

    def image(self, png: bytes, key: str, step: int) -> None:
        self.images[f"{key}@{step}"] = png

    def artifact(self, content: bytes, path: str) -> None:
        self.artifacts[path] = content

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"maps are no {name}")


def explained(image_id: str, classes: int) -> ExplainedImage:
    map_HW = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    return ExplainedImage(
        image_id=image_id,
        image_HWC=np.zeros((32, 32, 3), np.uint8),
        explanations=tuple(
            Explanation(class_index=index, raw_HW=map_HW, boosted_HW=map_HW)
            for index in range(classes)
        ),
    )


def test_maps_are_a_series_per_image_and_one_sheet(squares: Any) -> None:
    sink, classes = Kept(), Dataset.open(squares).classes
    publish.maps(sink, [explained("a", 1), explained("b", 2)], classes, 5.0, 96, "epoch_001")
    assert list(sink.images) == ["cam/a@96", "cam/b@96"]
    (sheet,) = sink.artifacts.items()
    assert sheet[0] == "cam/epoch_001.png"
    pictures = [
        np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in sink.images.values()
    ]
    found = np.asarray(Image.open(io.BytesIO(sheet[1])))
    first, second = pictures
    assert np.array_equal(found[: len(first), : first.shape[1]], first)
    assert np.array_equal(found[len(first) :, : second.shape[1]], second)


def test_no_pictures_no_sheet(squares: Any) -> None:
    sink = Kept()
    publish.maps(sink, [], Dataset.open(squares).classes, 5.0, 96, "epoch_001")
    assert not sink.artifacts
