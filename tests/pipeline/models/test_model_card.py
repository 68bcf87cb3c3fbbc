"""A checkpoint's card says what it is, what it learned from, how it scores and what it is for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.config.sections import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.data import profile
from pipeline.models.checkpoint import Meta
from pipeline.models.model_card import card
from sharding.manifest import Dataset


def meta_of(dataset: Path, **others: object) -> Meta:
    config = TrainConfig(dataset=str(dataset), method_options=("delta_rel=0.5",))
    return Meta.of(config, Dataset.open(dataset), epoch=3, images_seen=1500, world_size=1, **others)


def test_it_names_data_licence_method_scores_use_and_limits(squares: Path) -> None:
    opened = Dataset.open(squares)
    metrics = {"val/mAP/all": 0.7064, "val/mAP/group_1": 0.5, "val_no_boost/mAP/all": 0.6869}
    meta = meta_of(squares, data=profile.facts(opened), metrics=metrics)
    text = card(meta)
    assert f"labels first, digest `{opened.digest}`" in text
    assert f"annotations {profile.licence(opened)};" in text
    assert f"| Class groups | {meta.data['groups']} |" in text
    assert "| ll-r (delta_rel=0.5), seed 0 |" in text
    assert "epoch 3, 1,500 images seen" in text
    row = next(line for line in text.splitlines() if line.startswith("| BoostLU on"))
    assert [cell.strip() for cell in row.split("|")][2:-1] == ["50.00", *"––––", "70.64", "–"]
    assert text.index("Validation") < text.index("Intended use") < text.index("Limits")


def test_results_given_stand_in_the_place_of_the_validation(squares: Path) -> None:
    text = card(meta_of(squares, metrics={"val/mAP/all": 0.5}), "### mAP on test")
    assert "### mAP on test" in text
    assert "Validation" not in text


def test_a_network_without_maps_is_said_to_have_no_maps_and_no_boost(squares: Path) -> None:
    network = ModelConfig(head="ml-decoder", alpha_train=1.0, alpha_infer=1.0)
    config = TrainConfig(dataset=str(squares), model=network)
    plain = meta_of(squares, metrics={"val/mAP/all": 0.5, "val_no_boost/mAP/all": 0.5})
    text = card(dataclasses.replace(plain, config=config.to_dict()))
    assert "Validation" in text
    assert "people to confirm. Not" in text
    for word in ("BoostLU", "A map"):
        assert word in card(plain)
        assert word not in text


def test_an_old_checkpoint_has_a_card_too(squares: Path) -> None:
    text = card(meta_of(squares))
    assert "Licence" not in text
    assert "Validation" not in text
    assert "digest" in text
