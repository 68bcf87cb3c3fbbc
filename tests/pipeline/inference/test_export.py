"""Exported files: read without our code, any batch size, the checkpoint's logits, labelled."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open

from pipeline.inference import export
from pipeline.models import checkpoint
from pipeline.models.cam_head import CamHead
from sharding.errors import InputError
from tests.support.models import SIZE, write_checkpoint

IMAGES_BHWC = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def saved(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("export") / "checkpoint", squares)


@pytest.fixture(scope="module")
def exported(saved: Path) -> Path:
    output = saved.parent / "exported"
    found = export.export(str(saved), output, tuple(export.FORMATS))
    assert set(found) == {"safetensors", "pt2", "onnx"}
    assert found["safetensors"] == 0
    return output


def run_pt2(path: Path, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return torch.export.load(path).module()(torch.from_numpy(images)).numpy()


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return session.run(None, {name: images})[0]


@pytest.mark.parametrize(("name", "run"), [("pt2", run_pt2), ("onnx", run_onnx)])
@pytest.mark.parametrize("size", [1, 4])
def test_graphs_score_as_the_checkpoint_boost_included(
    exported: Path, saved: Path, name: str, run: Callable[..., np.ndarray], size: int
) -> None:
    model, _ = checkpoint.load_model(saved)
    images = IMAGES_BHWC[:size]
    with torch.inference_mode():
        raw, boosted = model.head.both(model.features(torch.from_numpy(images)))
    found = run(exported / f"model.{name}", images)
    assert np.abs(found - boosted.numpy()).max() < export.TOLERANCE * boosted.abs().max()
    assert np.abs(found - raw.numpy()).max() > 100 * export.TOLERANCE * boosted.abs().max()


def test_what_a_head_does_to_its_logits_is_exported_with_it(squares: Path, tmp_path: Path) -> None:
    saved = write_checkpoint(tmp_path / "checkpoint", squares, label_graph=4)
    export.export(str(saved), tmp_path, ("safetensors", "pt2", "onnx"))
    model, _ = checkpoint.load_model(saved)
    with torch.inference_mode():
        features = model.features(torch.from_numpy(IMAGES_BHWC))
        plain, refined = CamHead.forward(model.head, features), model.head(features)
    assert (plain - refined).abs().max() > 100 * export.TOLERANCE * refined.abs().max()
    for found in (
        run_pt2(tmp_path / "model.pt2", IMAGES_BHWC),
        run_onnx(tmp_path / "model.onnx", IMAGES_BHWC),
    ):
        assert np.abs(found - refined.numpy()).max() < export.TOLERANCE


def test_another_head_is_exported_whole(squares: Path, tmp_path: Path) -> None:
    plain = {"head": "ml-decoder", "alpha_train": 1.0, "alpha_infer": 1.0}
    saved = write_checkpoint(tmp_path / "checkpoint", squares, **plain)
    found = export.export(str(saved), tmp_path, ("safetensors", "pt2", "onnx"))
    assert len(found) == 3
    assert json.loads((tmp_path / "model.json").read_text())["head"] == "ml-decoder"


def test_every_file_says_how_to_use_it(exported: Path, saved: Path) -> None:
    beside = json.loads((exported / "model.json").read_text())
    meta = checkpoint.read_meta(saved)
    assert beside["image_size"] == SIZE
    assert beside["alpha"] == 5
    assert beside["classes_sha256"] == meta.classes_sha256
    assert beside["mids"] == list(meta.mids)
    extra = {"model.json": ""}
    torch.export.load(exported / "model.pt2", extra_files=extra)
    assert json.loads(extra["model.json"]) == beside
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    properties = session.get_modelmeta().custom_metadata_map
    with safe_open(exported / "model.safetensors", "pt") as file:
        strings = file.metadata()
    for key, value in beside.items():
        for output in (properties[key], strings[key]):
            assert (output if isinstance(value, str) else json.loads(output)) == value


def test_the_card_has_the_map_of_a_validation_beside_training(
    squares: Path, tmp_path: Path
) -> None:
    """Its metrics came after the checkpoint was written, so only Ray's snapshot has them."""
    saved = write_checkpoint(tmp_path / "run" / "checkpoint_one", squares)
    output = tmp_path / "exported"
    export.export(str(saved), output, ("safetensors",))
    assert "### Validation" not in (output / "README.md").read_text()
    found = {"val/mAP/all": 0.7064, "val/mAP/group_1": 0.5, "score": 0.7064}
    listed = [
        {"checkpoint_dir_name": name, "metrics": metrics}
        for name, metrics in (("checkpoint_none", {"val/mAP/all": 0.1}), (saved.name, found))
    ]
    snapshot = saved.parent / "checkpoint_manager_snapshot.json"
    snapshot.write_text(json.dumps({"checkpoint_results": listed}))
    export.export(str(saved), output, ("safetensors",))
    card = (output / "README.md").read_text()
    assert "### Validation, epoch 1" in card
    assert "70.64" in card


def test_the_mean_that_the_network_was_trained_with_is_told(saved: Path) -> None:
    model, meta = checkpoint.load_model(saved)
    model.mean.fill_(127.5)
    assert export.description(model, meta)["mean"] == [127.5] * 3


def test_nothing_but_the_files_is_left(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names == {"model.safetensors", "model.pt2", "model.onnx", "model.json", "README.md"}


def test_a_file_that_scores_otherwise_is_not_kept(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, _ = export.FORMATS["safetensors"]
    wrong = (write, lambda path, meta: lambda images: np.ones((3, 8), np.float32))
    monkeypatch.setattr(export, "FORMATS", {"safetensors": wrong})
    with pytest.raises(InputError, match="logits differ by"):
        export.export(str(saved), tmp_path, ("safetensors",))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match="pip install onnxscript"):
        export.export(str(saved), tmp_path, ("onnx",))
