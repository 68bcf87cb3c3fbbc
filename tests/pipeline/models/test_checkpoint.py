"""A checkpoint comes back as it was, and is refused where it does not belong."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import methods
from pipeline.config.sections import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.models import cam_net, checkpoint
from pipeline.models.checkpoint import Meta
from sharding.errors import InputError
from sharding.manifest import Dataset
from tests.support.models import BACKBONE

CONFIG = TrainConfig(dataset="d", model=ModelConfig(backbone="resnet18"))


def meta_for(squares: Path, **changes: Any) -> checkpoint.Meta:
    classes = Dataset.open(squares).classes
    meta = checkpoint.Meta(
        config=CONFIG.to_dict(),
        epoch=3,
        images_seen=288,
        world_size=2,
        classes_sha256=classes.sha256,
        mids=list(classes.mids),
        names=list(classes.names),
        dataset=str(squares),
        dataset_digest="0",
        labels="first",
    )
    return dataclasses.replace(meta, **changes)


@pytest.fixture
def saved(squares: Path, tmp_path: Path) -> tuple[Path, cam_net.CamNet, torch.optim.Adam]:
    torch.manual_seed(0)
    model = cam_net.build(CONFIG.model, 8)
    optimizer = torch.optim.Adam(cam_net.parameter_groups(model, 1e-3, 10))
    model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).sum().backward()
    optimizer.step()
    checkpoint.save(
        tmp_path,
        scored=model.state_dict(),
        training={
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "method": methods.create("an", 8).state_dict(),
        },
        meta=meta_for(squares),
    )
    return tmp_path, model, optimizer


def test_round_trip(saved: tuple[Path, cam_net.CamNet, torch.optim.Adam], squares: Path) -> None:
    directory, model, optimizer = saved
    loaded, meta = checkpoint.load_model(directory)
    assert meta == meta_for(squares)
    assert meta.train_config == CONFIG
    assert not loaded.training
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    state = checkpoint.load_training(directory)["optimizer"]
    assert state["param_groups"][1]["lr"] == pytest.approx(1e-2)
    assert torch.equal(state["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_a_network_is_loaded_without_compiling_it(squares: Path) -> None:
    config = TrainConfig(dataset="d", model=ModelConfig(backbone=BACKBONE, compile=True))
    meta = Meta.of(config, Dataset.open(squares), epoch=1, images_seen=9, world_size=1)
    assert checkpoint.blank_model(meta).backbone._compiled_call_impl is None


def test_another_class_list_is_refused_by_name(squares: Path) -> None:
    classes = Dataset.open(squares).classes
    meta_for(squares).check_classes(classes, "c")
    with pytest.raises(InputError, match=classes.sha256[:12]):
        meta_for(squares, classes_sha256="f" * 64).check_classes(classes, "c")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "meta.json").unlink(), "not a checkpoint"),
        (lambda d: (d / "meta.json").write_text("{"), "damaged"),
        (lambda d: (d / "meta.json").write_text('{"format": 99}'), "format"),
        (lambda d: (d / "model.pt").write_bytes(b"junk"), "damaged"),
        (lambda d: (d / "model.pt").write_bytes(b""), "damaged"),
        (lambda d: os.truncate(d / "model.pt", 100_000), "damaged"),
        (lambda d: (d / "model.pt").unlink(), "missing"),
        (lambda d: (d / "meta.json").write_bytes(b""), "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(
    saved: tuple[Path, Any, Any], damage: Any, message: str
) -> None:
    directory = saved[0]
    damage(directory)
    with pytest.raises(InputError, match=message):
        checkpoint.load_model(directory)


def test_meta_is_plain_json(saved: tuple[Path, Any, Any]) -> None:
    assert json.loads((saved[0] / "meta.json").read_text())["epoch"] == 3


def test_a_checkpoint_is_read_from_a_url_too(
    saved: tuple[Path, cam_net.CamNet, torch.optim.Adam],
) -> None:
    directory, model, _ = saved
    assert checkpoint.read_meta(directory.as_uri()) == checkpoint.read_meta(directory)
    loaded, _ = checkpoint.load_model(directory.as_uri())
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize(
    ("inner", "what"), [(False, "it has mixup"), (True, "it has the option data.mixup")]
)
def test_a_checkpoint_of_a_later_version_is_said(
    saved: tuple[Path, Any, Any], inner: bool, what: str
) -> None:
    directory = saved[0]
    meta = json.loads((directory / "meta.json").read_text())
    (meta["config"]["data"] if inner else meta)["mixup"] = 0.2
    (directory / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match=rf"not .*of this version .{what}, wh.*Fix: use the"):
        checkpoint.load_model(directory)
