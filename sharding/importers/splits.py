"""Training, validation and test images of a collection, and their labels as the papers have them.

The protocol of every single-positive paper: the official validation or test set is the test set; a
fifth of the official training set becomes validation, drawn with a seed of its own; training
images keep one positive each, validation and test images all labels.

Single-positive labels made from complete ones, as every SPML benchmark makes them.

The protocol of Cole et al. 2021 with its seeds: the same images, in the same order, keep the same
labels as in the published tables.
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
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.layout import SPLITS
from sharding.openimages.row_status import MOST_LISTED, RejectedRow

_ONCE = "list it for one split, once"
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


def listed_once(collection: Collection, *, strict: bool) -> Collection:
    """Each image in one split, once: what is for testing is in no other.

    To be applied last: the published draws were made over lists as they are.

    Raises:
        InputError: an image is listed twice, and the import is strict.
    """
    seen: set[str] = set()
    parts: dict[str, Part] = {}
    for split_name in sorted(collection.parts, key=SPLITS.index, reverse=True):
        part = collection.parts[split_name]
        rows: list[int] = []
        repeated: list[int] = []
        for row, name in enumerate(part.names):
            (repeated if name in seen else rows).append(row)
            seen.add(name)
        if repeated and strict:
            raise InputError(f"{part.names[repeated[0]]!r} is listed twice", fix=_ONCE)
        if repeated:
            part = _without_repeated(part, split_name, rows, repeated)
        parts[split_name] = part
    return replace(collection, parts={name: parts[name] for name in collection.parts})


def _without_repeated(part: Part, split_name: str, rows: list[int], repeated: list[int]) -> Part:
    rejected_rows = tuple(
        RejectedRow(
            file=f"{split_name} images",
            row=row + 1,
            image_id=part.names[row],
            reason=f"listed twice: {part.names[row]!r}",
            fix=_ONCE,
        )
        for row in repeated[:MOST_LISTED]
    )
    return replace(
        _take(part, np.array(rows, np.int64)),
        report={**part.report, "listed_twice": len(repeated)},
        rejected_rows=part.rejected_rows + rejected_rows,
    )


def _take(part: Part, rows_M: Rows) -> Part:
    names = tuple(part.names[row] for row in rows_M.tolist())
    return replace(part, names=names, labels_NK=part.labels_NK[rows_M])


def _drawn(part: Part, rows_M: Rows) -> Part:
    """The same, without the account of the files: that stays with the part drawn from."""
    return replace(_take(part, rows_M), report={}, rejected_rows=())


SEED = 1200

VALIDATION_SHARE = 0.2


def observe(
    complete_NK: npt.NDArray[np.int8], positives: int, negatives: int = 0, seed: int = SEED
) -> npt.NDArray[np.int8]:
    """Tri-state labels (N, K) that keep a few entries of each image.

    Args:
        complete_NK: int8, +1 present, 0 absent.
        positives: positives to keep per image; -1 keeps all.
        negatives: negatives to keep per image; -1 keeps all.
        seed: of one generator for the whole split.
    """
    generator = np.random.RandomState(seed)
    observed_NK = np.full(complete_NK.shape, UNOBSERVED, np.int8)
    for complete_K, observed_K in zip(complete_NK, observed_NK, strict=True):
        # Both shuffles are drawn for every image, whatever is kept: the next image depends on it.
        for state, kept in ((POSITIVE, positives), (NEGATIVE, negatives)):
            classes = np.flatnonzero(complete_K == state)
            generator.shuffle(classes)
            observed_K[classes if kept < 0 else classes[:kept]] = state
    return observed_NK


def split(
    num_images: int, seed: int = SEED, validation_share: float = VALIDATION_SHARE
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(train rows, validation rows) of the official training set, each ascending."""
    order = np.random.RandomState(seed).permutation(num_images)
    kept = num_images - round(validation_share * num_images)
    return np.sort(order[:kept]), np.sort(order[kept:])
