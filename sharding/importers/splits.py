"""Training, validation and test images of a collection, and their labels as the papers have them.

The protocol of every single-positive paper: the official validation or test set is the test set; a
fifth of the official training set becomes validation, drawn with a seed of its own; training
images keep one positive each, validation and test images all labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sharding.errors import InputError
from sharding.importers.collection import Collection, Part
from sharding.importers.options import ImportOptions
from sharding.importers.single_positive import observe, split

Rows = npt.NDArray[np.int64]


def with_test(collection: Collection, options: ImportOptions) -> Collection:
    """The collection with a test part, drawn where it has no parts at all.

    Raises:
        InputError: no image is for training.
    """
    if "train" not in collection.parts or not collection.parts["train"].names:
        raise InputError(
            "no image is for training",
            file=options.source,
            fix="call one of the splits train, or leave the split column out",
        )
    if not collection.unsplit or not options.test_share:
        return collection
    whole = collection.parts["train"]
    rest, test = split(len(whole.names), options.split_seed, options.test_share)
    drawn = {"share": options.test_share, "seed": options.split_seed}
    return replace(
        collection,
        parts={"train": _take(whole, rest), "test": _drawn(whole, test)},
        policy={**collection.policy, "test": drawn},
    )


def with_validation(collection: Collection, options: ImportOptions) -> Collection:
    """The collection with a validation part, drawn from the training part where it has none."""
    if "validation" in collection.parts or not options.validation_share:
        return collection
    official = collection.parts["train"]
    train, validation = split(len(official.names), options.split_seed, options.validation_share)
    drawn: dict[str, Any] = {"share": options.validation_share, "seed": options.split_seed}
    return replace(
        collection,
        parts={
            "train": _take(official, train),
            "validation": _drawn(official, validation),
            **{name: part for name, part in collection.parts.items() if name != "train"},
        },
        policy={**collection.policy, "validation": drawn},
    )


def with_single_positives(collection: Collection, seed: int) -> Collection:
    """The collection with one positive per training image and nothing else known of it.

    To be applied before validation images are drawn, as the published labels were: the draw for an
    image depends on all images before it.
    """
    official = collection.parts["train"]
    single = replace(official, labels_NK=observe(official.labels_NK, 1, seed=seed))
    return replace(
        collection,
        parts={**collection.parts, "train": single},
        policy={**collection.policy, "single_positive": {"seed": seed}},
    )


def complete_outside_training(
    single: Mapping[str, Part], complete: Mapping[str, Part]
) -> dict[str, Part]:
    """Single positives for training; validation and test as published."""
    return {name: single[name] if name == "train" else part for name, part in complete.items()}


def _take(part: Part, rows_M: Rows) -> Part:
    names = tuple(part.names[row] for row in rows_M.tolist())
    return replace(part, names=names, labels_NK=part.labels_NK[rows_M])


def _drawn(part: Part, rows_M: Rows) -> Part:
    """The same, without the account of the files: that stays with the part drawn from."""
    return replace(_take(part, rows_M), report={}, bad_rows=())
