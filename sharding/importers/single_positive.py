"""Single-positive labels made from complete ones, as every SPML benchmark makes them.

The protocol of Cole et al. 2021 with its seeds: the same images, in the same order, keep the same
labels as in the published tables.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharding.labels import NEGATIVE, POSITIVE, UNOBSERVED

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
