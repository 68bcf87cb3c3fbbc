"""What MLflow and model cards say of a dataset."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.data import profile
from sharding.dataset.card import TERMS, card
from sharding.layout import GROUPS_OF
from sharding.manifest import Dataset


def test_groups_are_said_to_follow_what_they_were_cut_by(squares: Path) -> None:
    dataset = Dataset.open(squares)
    kind = dataset.classes.group_by
    assert profile.grouped_by(dataset) == f"training {kind}"
    manifest = dataset.manifest.with_provenance(**{GROUPS_OF: "validation and test"})
    counted = dataclasses.replace(dataset, manifest=manifest)
    assert profile.grouped_by(counted) == f"validation and test {kind}"


@pytest.mark.parametrize("release", ["v3", "export", *TERMS, "voc2012"])
def test_the_licence_is_that_of_the_card(squares: Path, release: str) -> None:
    dataset = Dataset.open(squares)
    name, version = dataset.label_version()
    labels = {name: dataclasses.replace(version, release=release)}
    manifest = dataclasses.replace(dataset.manifest, labels=labels)
    licence = profile.licence(dataclasses.replace(dataset, manifest=manifest))
    assert f"\nlicense: {licence}\n" in card(manifest, dataset.classes)
    assert licence == ("cc-by-4.0" if release in ("v3", "export") else "other")


def test_a_table_is_counted_by_state_and_group(squares: Path) -> None:
    dataset = Dataset.open(squares)
    table = dataset.labels("train")
    (read,) = profile.inputs(dataset, "s3://bucket/set", None, ["train"])
    assert read.path == "s3://bucket/set/labels/first/train.parquet"
    counted = read.profile
    assert counted["images"] == len(table)
    assert counted["positives"] + counted["negatives"] == len(table.classes_E)
    assert sum(counted[n] for n in ("positives", "negatives", "unobserved")) == len(table) * 8
    assert counted["groups"].startswith("2, 2, 2, 1, 1 classes by training ")
