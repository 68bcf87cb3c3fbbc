"""Resolve rows about the same image and class: duplicates, disagreement, human against machine.

Entries are packed into one int64 each, so that sorting once brings everything about a pair
together: image (43 bits) | class (16) | negative (1) | rank of the source (3, lowest is most
trusted).

Shapes: E entries, M of them kept, P pairs in conflict, K classes.
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
    is_negative_E: npt.NDArray[np.bool_],
    ranks_E: npt.NDArray[np.integer],
) -> npt.NDArray[np.int32]:
    """Pack the lower 20 bits of entries: class, state and rank."""
    codes_E = classes_E.astype(np.int32) << _CLASS_SHIFT
    codes_E |= is_negative_E.astype(np.int32) << 3
    codes_E |= ranks_E.astype(np.int32)
    return codes_E


def resolve(
    images_E: npt.NDArray[np.integer], codes_E: npt.NDArray[np.int32], conflict: Conflict
) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Keep at most one entry per image and class, and count the others by what became of them.

    Of rows that agree the one of the most trusted source stays. Machine rows yield to human ones.
    Where humans disagree: ``unobserved`` drops both, ``positive`` and ``negative`` keep that
    state, ``verification`` keeps the more trusted source and drops both where they are equal.

    Returns:
        (entries_M, counts): entries sorted by image and class; counts of rows ``duplicates``,
        ``machine_overruled``, ``conflict_dropped``, and of pairs in ``conflicts``. Input rows =
        M + the three row counts.
    """
    entries_E = images_E.astype(np.int64)
    entries_E <<= _IMAGE_SHIFT
    entries_E |= codes_E
    entries_E.sort()
    is_first_E = _starts_group(entries_E >> 3)
    entries_E = entries_E[is_first_E]
    duplicates = len(is_first_E) - len(entries_E)

    # At most a positive and a negative are left of each pair, in that order.
    positives_P = np.flatnonzero(~_starts_group(entries_E >> _CLASS_SHIFT)) - 1
    drop_positive_P, drop_negative_P, is_machine_P = _verdicts(
        entries_E[positives_P], entries_E[positives_P + 1], conflict
    )
    is_kept_E = np.ones(len(entries_E), np.bool_)
    is_kept_E[positives_P[drop_positive_P]] = False
    is_kept_E[positives_P[drop_negative_P] + 1] = False
    dropped = int(drop_positive_P.sum() + drop_negative_P.sum())
    overruled = int(is_machine_P.sum())
    counts = {
        "duplicates": duplicates,
        "machine_overruled": overruled,
        "conflict_dropped": dropped - overruled,
        "conflicts": len(is_machine_P) - overruled,
    }
    return (entries_E[is_kept_E] if len(positives_P) else entries_E), counts


def human_counts(
    entries_M: npt.NDArray[np.int64], num_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count the entries that do not come from machines: (positives_K, negatives_K)."""
    classes_M = (entries_M >> _CLASS_SHIFT) & 0xFFFF
    is_negative_M = (entries_M & _NEGATIVE_BIT) != 0
    is_human_M = (entries_M & _RANK_BITS) != MACHINE_RANK
    return (
        np.bincount(classes_M[is_human_M & ~is_negative_M], minlength=num_classes),
        np.bincount(classes_M[is_negative_M], minlength=num_classes),
    )


def unpack(
    entries_M: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16], npt.NDArray[np.int8]]:
    """Unpack entries into (images_M, classes_M, states_M)."""
    states_M = np.where(entries_M & _NEGATIVE_BIT, np.int8(NEGATIVE), np.int8(POSITIVE))
    return entries_M >> _IMAGE_SHIFT, (entries_M >> _CLASS_SHIFT).astype(np.uint16), states_M


def _verdicts(
    positive_P: npt.NDArray[np.int64], negative_P: npt.NDArray[np.int64], conflict: Conflict
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Decide each pair: (drop the positive, drop the negative, the positive is a machine's)."""
    positive_rank_P, negative_rank_P = positive_P & _RANK_BITS, negative_P & _RANK_BITS
    is_machine_P = positive_rank_P == MACHINE_RANK
    if conflict == "verification":
        drop_positive_P = negative_rank_P <= positive_rank_P
        drop_negative_P = positive_rank_P <= negative_rank_P
    else:
        drop_positive_P = np.full(len(positive_P), conflict != "positive")
        drop_negative_P = np.full(len(positive_P), conflict != "negative")
    return drop_positive_P | is_machine_P, drop_negative_P & ~is_machine_P, is_machine_P


def _starts_group(keys_E: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    starts_E = np.ones(len(keys_E), np.bool_)
    np.not_equal(keys_E[1:], keys_E[:-1], out=starts_E[1:])
    return starts_E
