"""What an evaluation leaves in MLflow: pictures as series and as one sheet that is easy to find."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from pipeline.evaluation import publish
from pipeline.inference.cams import Cams


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


def explained(image_id: str, classes: int) -> tuple[str, Cams]:
    maps_NPHW = np.tile(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4), (1, classes, 1, 1))
    return image_id, Cams(
        images_NHWC=np.zeros((1, 32, 32, 3), np.uint8),
        mids=["/m/0"] * classes,
        names=["Square"] * classes,
        raw_NPHW=maps_NPHW,
        boosted_NPHW=maps_NPHW,
        alpha=5.0,
    )


def test_maps_are_a_series_per_image_and_one_sheet() -> None:
    sink = Kept()
    publish.maps(sink, [explained("a", 1), explained("b", 2)], 96, "epoch_001")
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


def test_no_pictures_no_sheet() -> None:
    sink = Kept()
    publish.maps(sink, [], 96, "epoch_001")
    assert not sink.artifacts
