"""Split a collection into training, validation and test images, and draw single positives.

The protocol of every single-positive paper (Cole et al. 2021): the official validation or test set
is the test set; a fifth of the official training set becomes validation, drawn with a seed of its
own; training images keep one positive each, validation and test images all labels. The draws are
those of the authors' code: with its seeds the same images, in the same order, keep the same labels
as in the published tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sharding.errors import InputError
from sharding.importers.collection import LEFT_OUT, WITHOUT_POSITIVE, Collection, Part
from sharding.importers.options import ImportOptions
from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED
from sharding.layout import SPLITS
from sharding.openimages.row_status import MOST_LISTED, RejectedRow
from sharding.sources.named import image_id_of
from sharding.sources.spelling import Spellings

SEED = 1200
VALIDATION_SHARE = 0.2

_ONCE = "list it for one split, once"

Rows = npt.NDArray[np.int64]


def with_positives(collection: Collection, held: Container[str]) -> Collection:
    """Leave out images without any positive, where that is the collection's policy.

    To be applied first: the published draws were made over lists without them.

    Args:
        collection: as it was read.
        held: ids of images of a finished dataset, which stay: what was mended in them is a label.
    """
    if collection.policy.get(WITHOUT_POSITIVE) != LEFT_OUT:
        return collection
    parts = {}
    for split_name, part in collection.parts.items():
        kept_N = (part.labels_NK == POSITIVE).any(axis=1)
        for row in np.flatnonzero(~kept_N).tolist():
            kept_N[row] = image_id_of(part.names[row]) in held
        report = {**part.report, WITHOUT_POSITIVE: int(np.count_nonzero(~kept_N))}
        parts[split_name] = replace(_take(part, np.flatnonzero(kept_N)), report=report)
    return replace(collection, parts=parts)


def with_first_spellings(collection: Collection) -> Collection:
    """Name each file as its first mention does; others may differ in case or Unicode form."""
    spellings = Spellings(collection.images)
    parts = {
        split: replace(part, names=tuple(map(spellings.first, part.names)))
        for split, part in collection.parts.items()
    }
    return replace(collection, parts=parts)


def with_test(collection: Collection, options: ImportOptions) -> Collection:
    """Draw a test part where the collection has no parts at all.

    Raises:
        InputError: no image is for training.
    """
    training = collection.parts.get("train")
    if training is None or not training.names:
        problem, fix = "no image is for training", "fetch its lists and annotations again"
        if training is not None and training.rejected_rows:
            problem, fix = f"{problem} ({training.rejected_rows[0].as_error()})", "mend such rows"
        elif options.format == "csv":
            fix = "call one of the splits train, or leave the split column out"
        raise InputError(problem, file=options.source, fix=fix)
    if not collection.unsplit:
        return collection
    return _with_drawn(collection, "test", options.test_share, options.split_seed)


def with_validation(collection: Collection, options: ImportOptions) -> Collection:
    """Draw a validation part from the training part where the collection has none."""
    if "validation" in collection.parts:
        return collection
    return _with_drawn(collection, "validation", options.validation_share, options.split_seed)


def with_single_positives(collection: Collection, seed: int) -> Collection:
    """Keep one positive per training image, and nothing else of it.

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


def with_united_labels(collection: Collection) -> Collection:
    """Give each mention of an image the labels of all of them; what one has present is present."""
    parts = collection.parts.items()
    rows = [(split, row) for split, part in parts for row in range(len(part.names))]
    names = [collection.parts[split].names[row] for split, row in rows]
    if len(set(names)) == len(names):
        return collection
    mentions: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, place in zip(names, rows, strict=True):
        mentions[name].append(place)
    labels = {split: part.labels_NK.copy() for split, part in parts}
    for places in mentions.values():
        if len(places) > 1:
            stated_MK = np.array([labels[split][row] for split, row in places])
            united_K = np.full_like(stated_MK[0], UNOBSERVED)
            for state in (NEGATIVE, POSITIVE):
                united_K[(stated_MK == state).any(axis=0)] = state
            for split, row in places:
                labels[split][row] = united_K
    united = {split: replace(part, labels_NK=labels[split]) for split, part in parts}
    return replace(collection, parts=united)


def listed_once(collection: Collection, *, strict: bool) -> Collection:
    """Keep each image in one split, once: an image for testing is in no other split.

    To be applied last: the published draws were made over lists as they are.

    Raises:
        InputError: an image is listed twice, and the import is strict.
    """
    seen: set[str] = set()
    parts: dict[str, Part] = {}
    for split_name in sorted(collection.parts, key=SPLITS.index, reverse=True):
        part = collection.parts[split_name]
        kept: list[int] = []
        repeated: list[int] = []
        for row, name in enumerate(part.names):
            (repeated if name in seen else kept).append(row)
            seen.add(name)
        if repeated and strict:
            raise InputError(f"{part.names[repeated[0]]!r} is listed twice", fix=_ONCE)
        if repeated:
            part = _without_repeated(part, split_name, kept, repeated)
        parts[split_name] = part
    return replace(collection, parts={name: parts[name] for name in collection.parts})


def observe(
    complete_NK: npt.NDArray[np.int8], positives: int, negatives: int = 0, seed: int = SEED
) -> npt.NDArray[np.int8]:
    """Draw tri-state labels (N, K) that keep a few entries of each image.

    Args:
        complete_NK: int8, +1 present, 0 absent.
        positives: positives to keep per image; -1 keeps all.
        negatives: negatives to keep per image; -1 keeps all.
        seed: of one generator for the whole split.
    """
    generator = np.random.RandomState(seed)
    observed_NK = np.full(complete_NK.shape, UNOBSERVED, np.int8)
    for complete_K, observed_K in zip(complete_NK, observed_NK, strict=True):
        # Both shuffles are drawn for every image, even if unused: the next image depends on it.
        for state, kept in ((POSITIVE, positives), (NEGATIVE, negatives)):
            classes = np.flatnonzero(complete_K == state)
            generator.shuffle(classes)
            observed_K[classes if kept < 0 else classes[:kept]] = state
    return observed_NK


def split(
    num_images: int, seed: int = SEED, validation_share: float = VALIDATION_SHARE
) -> tuple[Rows, Rows]:
    """Draw (train rows, validation rows) of the official training set, each ascending."""
    order = np.random.RandomState(seed).permutation(num_images)
    kept = num_images - round(validation_share * num_images)
    return np.sort(order[:kept]), np.sort(order[kept:])


def _with_drawn(collection: Collection, name: str, share: float, seed: int) -> Collection:
    """Move a drawn share of the training part to a part of its own."""
    if not share:
        return collection
    official = collection.parts["train"]
    kept, drawn = split(len(official.names), seed, share)
    # Counts and rejected rows of the files stay with the training part.
    part = replace(_take(official, drawn), report={}, rejected_rows=())
    others = {split: part for split, part in collection.parts.items() if split != "train"}
    return replace(
        collection,
        parts={"train": _take(official, kept), name: part, **others},
        policy={**collection.policy, name: {"share": share, "seed": seed}},
    )


def _without_repeated(
    part: Part, split_name: str, kept: Sequence[int], repeated: Sequence[int]
) -> Part:
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
        _take(part, np.array(kept, np.int64)),
        report={**part.report, "listed_twice": len(repeated)},
        rejected_rows=part.rejected_rows + rejected_rows,
    )


def _take(part: Part, rows_M: Rows) -> Part:
    names = tuple(part.names[row] for row in rows_M.tolist())
    return replace(part, names=names, labels_NK=part.labels_NK[rows_M])
