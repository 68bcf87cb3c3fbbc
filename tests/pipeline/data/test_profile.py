"""What MLflow and model cards say of a dataset."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.data import profile
from sharding.layout import GROUPS_OF
from sharding.manifest import Dataset


def test_groups_are_said_to_follow_what_they_were_cut_by(squares: Path) -> None:
    dataset = Dataset.open(squares)
    kind = dataset.classes.group_by
    assert profile.grouped_by(dataset) == f"training {kind}"
    manifest = dataset.manifest.with_provenance(**{GROUPS_OF: "validation and test"})
    counted = dataclasses.replace(dataset, manifest=manifest)
    assert profile.grouped_by(counted) == f"validation and test {kind}"
