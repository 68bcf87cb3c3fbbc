"""Describe a dataset as MLflow and model cards show it: counts of labels, class groups, licence."""

from __future__ import annotations

from sharding.layout import GROUPS_OF
from sharding.manifest import Dataset


def grouped_by(dataset: Dataset) -> str:
    """Say which counts class groups follow: "training annotations", "test positives"."""
    splits = dataset.manifest.created_by.get(GROUPS_OF, "training")
    return f"{splits} {dataset.classes.group_by}"
