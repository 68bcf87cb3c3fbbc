"""What an evaluation leaves in MLflow of its maps: a sheet per epoch, a page over epochs."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from pipeline.evaluation import publish
from pipeline.evaluation.per_class import PerClass
from pipeline.inference import cam_page
from pipeline.inference.cams import Cams, Explained
from sharding.classes import ClassTable


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.artifacts: dict[str, bytes] = {}

    def artifact(self, content: bytes, path: str) -> None:
        self.artifacts[path] = content

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        self.artifacts[path] = change(self.artifacts.get(path))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"maps are no {name}")


def explained(image_id: str, classes: int) -> Explained:
    maps_NPHW = np.tile(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4), (1, classes, 1, 1))
    cams = Cams(
        images_NHWC=np.zeros((1, 32, 32, 3), np.uint8),
        mids=["/m/0"] * classes,
        names=["Square"] * classes,
        raw_NPHW=maps_NPHW,
        boosted_NPHW=maps_NPHW,
        alpha=5.0,
    )
    return Explained(image_id=image_id, cams=cams, present=["Square", "Sky"], absent=["Cat"])


def slides(page: bytes) -> list[dict[str, Any]]:
    found = re.search(r'id="slides">(.*?)</script>', page.decode(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_maps_are_a_sheet_per_epoch_and_a_page_over_epochs() -> None:
    sink = Kept()
    for epoch in (1, 2, 2):  # the second was scored again
        maps = [explained("a", 1), explained("b", 2)]
        publish.maps(sink, maps, epoch=epoch, about=f"run, test, epoch {epoch}")
    assert list(sink.artifacts) == ["cam/epoch_001.png", "cam/maps.html", "cam/epoch_002.png"]
    sheet = Image.open(io.BytesIO(sink.artifacts["cam/epoch_002.png"]))
    assert sheet.height > 2 * sheet.width / 3, "one row, and two rows below it"
    page = sink.artifacts["cam/maps.html"]
    assert b"<title>run, test</title>" in page
    assert not re.search(rb"(src|href)=.?https?:", page), "it needs no other file"
    assert [slide["epoch"] for slide in slides(page)] == [1, 2]
    first, second = slides(page)[1]["images"]
    assert (first["id"], first["present"], first["absent"]) == ("a", ["Square", "Sky"], ["Cat"])
    assert [each["name"] for each in second["classes"]] == ["Square", "Square"]
    ((raw, _), (boosted, layer)), end = second["classes"][0]["maps"], second["classes"][0]["end"]
    assert (raw, boosted, end) == ("raw map, score +0.00", "BoostLU (α = 5), score +0.00", "1")
    for uri in (second["photo"], layer):
        prefix, _, code = uri.partition(",")
        picture = Image.open(io.BytesIO(base64.b64decode(code)))
        assert (prefix, picture.format) == ("data:image/webp;base64", "WEBP")


def test_a_class_name_cannot_end_the_data() -> None:
    new = {"epoch": 1, "images": [{"id": "a", "present": ["</script><b>"]}]}
    page = cam_page.extend(None, "a & b", new)
    assert slides(page) == [new]
    assert slides(cam_page.extend(page, "a & b", {**new, "epoch": 0})) == [{**new, "epoch": 0}, new]


def test_the_page_of_a_long_run_keeps_its_size() -> None:
    page = None
    for epoch in range(1, 61):
        page = cam_page.extend(page, "a", {"epoch": epoch, "images": []})
    epochs = [slide["epoch"] for slide in slides(page)]
    assert len(epochs) == 20
    assert (epochs[0], epochs[-1]) == (1, 60)
    assert max(after - before for before, after in itertools.pairwise(epochs)) < 8


def test_no_pictures_no_sheet() -> None:
    sink = Kept()
    publish.maps(sink, [], epoch=1, about="run, test, epoch 1")
    assert not sink.artifacts


def test_classes_are_ranked_to_be_read() -> None:
    classes = ClassTable.build(["/m/0", "/m/1", "/m/2"], ["a", "b", "c"], *np.ones((2, 3), int))
    table = PerClass(
        classes=classes,
        rule="boostlu",
        ap_no_boost_K=np.array([0.8, np.nan, 0.3]),
        ap_K=np.array([0.9, np.nan, 0.2]),
        positives_K=np.array([1, 0, 2]),
        negatives_K=np.array([3, 0, 4]),
    )
    ranked = table.ranked()
    assert list(ranked)[2] == "ap"
    assert ranked["ap"] == [0.2, 0.9, None]
    assert ranked["name"] == ["c", "a", "b"]
    assert ranked["positives"] == [2, 1, 0]
