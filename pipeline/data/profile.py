"""Describe a dataset as MLflow and model cards show it: counts of labels, class groups, licence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.config.train import TrainConfig
from pipeline.tracking.runs import TableInput
from sharding.layout import GROUPS_OF
from sharding.log import count
from sharding.manifest import Dataset


def grouped_by(dataset: Dataset) -> str:
    """Say which counts class groups follow: "training annotations", "test positives"."""
    splits = dataset.manifest.created_by.get(GROUPS_OF, "training")
    return f"{splits} {dataset.classes.group_by}"


def licence(dataset: Dataset) -> str:
    """Name the licence of the annotations, as the dataset's card does; "other": see there."""
    releases = {version.release for version in dataset.manifest.labels.values()}
    is_open_images = all(re.fullmatch(r"v\d+|export", release) for release in releases)
    return "cc-by-4.0" if is_open_images else "other"


def profile(dataset: Dataset, split: str, labels: str | None = None) -> dict[str, Any]:
    """Count a split's images and its labels of each state, and the classes of each group."""
    file, classes = dataset.label_version(labels)[1].splits[split], dataset.classes
    sizes = np.bincount(classes.groups_K)[1:].tolist()
    return {
        "images": file.images,
        "positives": file.positives,
        "negatives": file.negatives,
        "unobserved": file.images * len(classes) - file.positives - file.negatives,
        "classes": len(classes),
        "groups": f"{', '.join(map(str, sizes))} classes by {grouped_by(dataset)}",
    }


def about_map(dataset: Dataset, split: str, labels: str | None) -> list[str]:
    """Say, in lines for a terminal, what the mAP of a split is of."""
    K = len(dataset.classes)
    positives_K, _ = dataset.labels(split, labels).count_per_class(K)
    missing = int((positives_K == 0).sum())
    lines = [f"{split} has no positive of {missing:,} of {count(K, 'class')}"] if missing else []
    return [*lines, f"mAP is in percent on {split}, with BoostLU and (off) without"]


def facts(dataset: Dataset, labels: str | None = None) -> dict[str, Any]:
    """Say what a model card says of the training data: its licence and counts."""
    return {"licence": licence(dataset), **profile(dataset, "train", labels)}


def inputs(
    dataset: Dataset, location: str, labels: str | None, splits: Iterable[str]
) -> list[TableInput]:
    """List the label tables of splits as a run in MLflow reads them.

    Args:
        dataset: their dataset.
        location: directory or URL of it, as it was written.
        labels: label version, the default one if None.
        splits: those that are read.
    """
    files = dataset.label_version(labels)[1].splits
    return [
        TableInput(
            context=split,
            path=storage.join(location, files[split].path),
            digest=files[split].sha256,
            profile=profile(dataset, split, labels),
        )
        for split in splits
    ]


def tags(dataset: Dataset, labels: str | None, config: TrainConfig) -> dict[str, str]:
    """List the tags of everything that was trained: what on, and by what method."""
    return {
        "dataset_digest": dataset.digest,
        "classes_sha256": dataset.classes.sha256,
        "labels": dataset.label_version(labels)[0],
        "licence": licence(dataset),
        "method": config.method,
    }
