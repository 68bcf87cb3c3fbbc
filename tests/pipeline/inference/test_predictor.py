"""Using a model: the evaluation's scores, from any kind of image, with names and maps."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline.data.labels import LabelledSplit
from pipeline.evaluation.scores import score
from pipeline.inference.predictor import Prediction, Predictor
from pipeline.models import checkpoint
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset
from sharding.storage.retry import LARGEST_IMAGE
from tests.support.models import BACKBONE, SIZE, write_checkpoint


@pytest.fixture(scope="module")
def saved(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint", squares)


@pytest.fixture(scope="module")
def model(saved: Path) -> Predictor:
    return pipeline.load(str(saved), batch_size=5)


def jpegs(squares: Path) -> dict[str, bytes]:
    """Image id to encoded image, of the test split."""
    found = {}
    for path in sorted(squares.glob("images/test-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                content = tar.extractfile(member)
                assert content
                found[member.name.removesuffix(".jpg")] = content.read()
    return found


def test_scores_are_the_evaluations(squares: Path, saved: Path, model: Predictor) -> None:
    dataset = Dataset.open(squares)
    judged = score(
        checkpoint.load_model(saved)[0],
        LabelledSplit.open(
            dataset, "test", None, torch.device("cpu"), batch_size=8, image_size=SIZE
        ),
    )
    images = jpegs(squares)
    scores = dict(zip(images, model.predict(images.values()), strict=True))
    ours_E = np.array(
        [
            scores[image_id].scores_K[k]
            for image_id, k in zip(
                format_image_ids(judged.image_ids_E), judged.classes_E, strict=True
            )
        ]
    )
    # The same pixels in other batches: sums of other order.
    np.testing.assert_allclose(ours_E, judged.boosted_E, rtol=1e-4, atol=1e-5)


def test_every_kind_of_image_gives_the_same(
    squares: Path, model: Predictor, tmp_path: Path
) -> None:
    content = next(iter(jpegs(squares).values()))
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    picture = Image.open(io.BytesIO(content))
    kinds = [path, str(path), path.as_uri(), content, picture, np.asarray(picture)]
    first, *others = model.predict(kinds)
    # Not bit for bit: batches of other sizes sum in another order.
    assert all(np.allclose(first.scores_K, other.scores_K, atol=1e-5) for other in others)


def test_grey_and_turned_pictures_are_read_as_shown(model: Predictor) -> None:
    rng = np.random.default_rng(0)
    grey_HW = rng.integers(0, 255, (40, 60)).astype(np.uint8)
    turned = Image.fromarray(np.rot90(grey_HW))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    plain, shown = model.predict([grey_HW, file.getvalue()])
    assert np.array_equal(plain.scores_K, shown.scores_K)


def test_labels_are_ordered_and_named() -> None:
    found = Prediction(
        scores_K=np.array([-1, 2, 2, 0.5], np.float32), mids=list("abcd"), names=list("ABCD")
    )
    assert [(label.index, label.mid, label.name) for label in found.top(2)] == [
        (1, "b", "B"),
        (2, "c", "C"),
    ]
    assert [label.name for label in found.above()] == ["B", "C", "D"]
    assert found.top(1)[0].probability == pytest.approx(1 / (1 + np.exp(-2)))


def test_only_the_labels_that_are_kept_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of classes, for each image of a bulk prediction."""
    made = []
    monkeypatch.setattr(Prediction, "_label", lambda self, index: made.append(index))
    found = Prediction(
        scores_K=np.array([-1, 2, 2, 0.5], np.float32), mids=list("abcd"), names=list("ABCD")
    )
    found.present(0.5, 2)
    assert made == [1, 2]


def test_the_mean_of_a_boosted_map_is_the_score(
    squares: Path, model: Predictor, tmp_path: Path
) -> None:
    images = list(jpegs(squares).values())[:3]
    cams = model.cam(images, ["SQUARE 3", "/m/0005", 0])
    scores = np.stack([found.scores_K[[3, 5, 0]] for found in model.predict(images)])
    assert np.allclose(cams.boosted_NPHW.mean((2, 3)), scores, atol=1e-4)
    written = cams.save(tmp_path)
    assert len(written) == 1 + 3 * 3
    assert Image.open(written[-1]).format == "PNG"
    kept = np.load(tmp_path / "cams.npz")
    assert np.array_equal(kept["raw"], cams.raw_NPHW)
    assert list(kept["mids"]) == ["/m/0003", "/m/0005", "/m/0000"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.jpg", "nowhere.jpg: cannot be read"),
        (b"no image", "image bytes: not an image that can be decoded \\(begins with"),
        (np.zeros((4, 4), np.float32), "array of float32 \\(4, 4\\) is no image"),
        (np.zeros((4, 4, 2), np.uint8), "is no image"),
    ],
)
def test_what_is_no_image_is_refused(model: Predictor, image: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.predict([image])  # type: ignore[list-item]


def test_no_picture_is_waited_for(model: Predictor, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for location in (str(tmp_path / "pipe.jpg"), (tmp_path / "pipe.jpg").as_uri()):
        with pytest.raises(InputError, match=r"cannot be read \(a named pipe"):
            model.predict([location])
    (tmp_path / "large.jpg").touch()
    os.truncate(tmp_path / "large.jpg", LARGEST_IMAGE + 1)
    with pytest.raises(InputError, match=r"cannot be read \(more than"):
        model.predict([str(tmp_path / "large.jpg")])
    with pytest.raises(InputError, match=r"cannot be read \(.*no file system for github"):
        model.predict(["github://host/a.jpg"])


def test_a_truncated_jpeg_is_refused(squares: Path, model: Predictor) -> None:
    content = next(iter(jpegs(squares).values()))
    with pytest.raises(InputError, match="damaged JPEG: Premature end"):
        model.predict([content[: len(content) // 2]])


def test_a_broken_exif_block_says_nothing_about_the_picture(model: Predictor) -> None:
    text_for_a_fraction = struct.pack("<HHI4s", 0x011A, 7, 4, b"none")
    header = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1)
    plain, file = io.BytesIO(), io.BytesIO()
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(plain, "JPEG")
    picture.save(file, "JPEG", exif=header + text_for_a_fraction + bytes(4))
    expected, *found = model.predict([plain.getvalue(), file.getvalue(), Image.open(file)])
    assert all(np.array_equal(expected.scores_K, other.scores_K) for other in found)


def test_one_bad_picture_among_many_is_an_answer_of_its_own(model: Predictor) -> None:
    grey_HW = np.full((8, 8), 99, np.uint8)
    first, bad, last = model.predict_each([grey_HW, b"none", grey_HW])
    assert isinstance(bad, InputError)
    assert isinstance(first, Prediction)
    assert isinstance(last, Prediction)
    assert np.allclose(first.scores_K, last.scores_K)
    (late,) = model.predict_each([grey_HW], deadline=0.0)
    assert "not reached" in str(late)


def test_one_image_instead_of_a_list_is_refused(model: Predictor) -> None:
    with pytest.raises(InputError, match="pass a list"):
        model.predict("image.jpg")


def test_an_unknown_class_is_told_with_a_likely_one(model: Predictor) -> None:
    with pytest.raises(InputError, match=r"no class 'sqare 7'.*square 7"):
        model.class_index("sqare 7")
    with pytest.raises(InputError, match="0 to 7"):
        model.class_index(8)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a checkpoint nor a run"):
        pipeline.load(str(tmp_path))
    with pytest.raises(InputError, match="runs/absent: no such directory"):
        pipeline.load(str(tmp_path / "runs/absent"))


def test_objects_say_what_they_are(squares: Path, model: Predictor) -> None:
    assert repr(model) == f"Predictor({BACKBONE}, 8 classes, 64 px, trained with ll-r, on cpu)"
    (prediction,) = model.predict([next(iter(jpegs(squares).values()))])
    best = prediction.top(1)[0]
    assert repr(prediction).startswith(f"Prediction({best.name} {best.probability:.2f}, ")
    cams = model.cam([np.zeros((40, 40, 3), np.uint8)], [0, 2])
    assert repr(cams) == f"Cams(1 image; {model.meta.names[0]}, {model.meta.names[2]})"
    assert Image.open(io.BytesIO(cams._repr_png_())).format == "PNG"
    assert repr(pipeline.open_dataset(str(squares))).startswith("Dataset(8 classes; images: ")


def test_names_are_escaped_in_a_notebook() -> None:
    scores_K = np.array([0.0, 2.0], np.float32)
    prediction = Prediction(scores_K=scores_K, mids=["/m/0", "/m/1"], names=["dog", "<b>cat</b>"])
    page = prediction._repr_html_()
    assert "<td>&lt;b&gt;cat&lt;/b&gt;</td><td>/m/1</td><td>2.00</td><td>0.881</td>" in page
    assert page.index("/m/1") < page.index("/m/0")  # best first


def test_importing_the_package_is_light() -> None:
    script = "import sys, pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
