"""Rows about the same image and class: duplicates, disagreement, human against machine.

Entries travel as one int64 each, so that sorting once brings everything about a pair together:
image (43 bits) | class (16) | negative (1) | rank of the source (3, lowest is most trusted).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sharding.labels import NEGATIVE, POSITIVE

Conflict = Literal["unobserved", "positive", "negative", "verification"]
CONFLICTS: tuple[str, ...] = get_args(Conflict)

MACHINE_RANK = 7
_RANK_BITS, _NEGATIVE_BIT, _CLASS_SHIFT, _IMAGE_SHIFT = 7, 8, 4, 20


def entry_codes(
    classes_E: npt.NDArray[np.integer],
    negative_E: npt.NDArray[np.bool_],
    ranks_E: npt.NDArray[np.integer],
) -> npt.NDArray[np.int32]:
    """The lower 20 bits of entries: class, state and rank."""
    codes_E = classes_E.astype(np.int32) << _CLASS_SHIFT
    codes_E |= negative_E.astype(np.int32) << 3
    codes_E |= ranks_E.astype(np.int32)
    return codes_E


def resolve(
    images_E: npt.NDArray[np.integer], codes_E: npt.NDArray[np.int32], conflict: Conflict
) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """One entry per image and class, sorted by image and class, and what became of the others.

    Of rows that agree the one of the most trusted source stays. Machine rows yield to human ones.
    Where humans disagree: ``unobserved`` drops both, ``positive`` and ``negative`` keep that
    state, ``verification`` keeps the more trusted source and drops both where they are equal.

    Returns:
        (entries_M, counts): counts of rows ``duplicates``, ``machine_overruled``,
        ``conflict_dropped``, and of pairs in ``conflicts``. Input rows = M + the three row counts.
    """
    entries_E = images_E.astype(np.int64)
    entries_E <<= _IMAGE_SHIFT
    entries_E |= codes_E
    entries_E.sort()
    fresh_E = _starts_group(entries_E >> 3)
    entries_E = entries_E[fresh_E]
    duplicates = len(fresh_E) - len(entries_E)

    # At most a positive and a negative are left of each pair, in that order.
    first_M = np.flatnonzero(~_starts_group(entries_E >> _CLASS_SHIFT)) - 1
    drop_positive_M, drop_negative_M, machine_M = _verdicts(
        entries_E[first_M], entries_E[first_M + 1], conflict
    )
    keep_E = np.ones(len(entries_E), np.bool_)
    keep_E[first_M[drop_positive_M]] = False
    keep_E[first_M[drop_negative_M] + 1] = False
    dropped = int(drop_positive_M.sum() + drop_negative_M.sum())
    counts = {
        "duplicates": duplicates,
        "machine_overruled": int(machine_M.sum()),
        "conflict_dropped": dropped - int(machine_M.sum()),
        "conflicts": int(len(machine_M) - machine_M.sum()),
    }
    return (entries_E[keep_E] if len(first_M) else entries_E), counts


def human_counts(
    entries_M: npt.NDArray[np.int64], num_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(positives_K, negatives_K) of the entries that do not come from machines."""
    classes_M = (entries_M >> _CLASS_SHIFT) & 0xFFFF
    negative_M = (entries_M & _NEGATIVE_BIT) != 0
    human_M = (entries_M & _RANK_BITS) != MACHINE_RANK
    return (
        np.bincount(classes_M[human_M & ~negative_M], minlength=num_classes),
        np.bincount(classes_M[negative_M], minlength=num_classes),
    )


def unpack(
    entries_M: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16], npt.NDArray[np.int8]]:
    """(images_M, classes_M, states_M) of packed entries."""
    states_M = np.where(entries_M & _NEGATIVE_BIT, np.int8(NEGATIVE), np.int8(POSITIVE))
    return entries_M >> _IMAGE_SHIFT, (entries_M >> _CLASS_SHIFT).astype(np.uint16), states_M


def _verdicts(
    positive_M: npt.NDArray[np.int64], negative_M: npt.NDArray[np.int64], conflict: Conflict
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(drop the positive, drop the negative, it was only a machine's positive) per pair."""
    positive_rank_M, negative_rank_M = positive_M & _RANK_BITS, negative_M & _RANK_BITS
    machine_M = positive_rank_M == MACHINE_RANK
    if conflict == "verification":
        drop_positive_M = negative_rank_M <= positive_rank_M
        drop_negative_M = positive_rank_M <= negative_rank_M
    else:
        drop_positive_M = np.full(len(positive_M), conflict != "positive")
        drop_negative_M = np.full(len(positive_M), conflict != "negative")
    return drop_positive_M | machine_M, drop_negative_M & ~machine_M, machine_M


def _starts_group(keys_E: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    starts_E = np.ones(len(keys_E), np.bool_)
    np.not_equal(keys_E[1:], keys_E[:-1], out=starts_E[1:])
    return starts_E
