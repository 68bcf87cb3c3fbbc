"""Count images that have the same bytes, within splits and across them, while shards are written.

A picture that is in train and in test makes a score of something that was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sharding.dataset.members import Members
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.layout import SPLITS
from sharding.log import count
from sharding.shards.task import PICTURE_DIGITS, ShardOutcome


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Images with the bytes of another image.

    Attributes:
        within: images by split that repeat an earlier one of it.
        across: pictures of a later split (train, validation, test) that an earlier one has.
        example: (split, id) of an image and of one across that repeats it.
    """

    within: dict[str, int]
    across: int = 0
    example: tuple[tuple[str, str], tuple[str, str]] | None = None

    @classmethod
    def of(cls, outcomes: Iterable[ShardOutcome], members: Sequence[Members]) -> Duplicates | None:
        """Compare the images of all shards; None where an older record does not say what it has."""
        ids = {part.shard.path: part.image_ids_N for part in members}
        hashes, splits, ids_N = [], [], []
        for outcome in sorted(outcomes, key=lambda outcome: outcome.name):
            if outcome.shard is None:
                continue
            if len(outcome.picture_hashes) != PICTURE_DIGITS * outcome.shard.images:
                return None
            hashes.append(
                np.frombuffer(bytes.fromhex(outcome.picture_hashes), ">u8").reshape(-1, 2)
            )
            splits.append(np.full(outcome.shard.images, SPLITS.index(outcome.split), np.int8))
            ids_N.append(ids[outcome.shard.path])
        if not hashes:
            return cls(within={})
        return cls._of(np.concatenate(hashes), np.concatenate(splits), np.concatenate(ids_N))

    @classmethod
    def _of(cls, hashes_N2: np.ndarray, splits_N: np.ndarray, ids_N: np.ndarray) -> Duplicates:
        order_N = np.lexsort((splits_N, *hashes_N2.T))  # equal pictures side by side, by split
        hashes_N2, splits_N, ids_N = hashes_N2[order_N], splits_N[order_N], ids_N[order_N]
        repeats_N = np.concatenate([[False], (hashes_N2[1:] == hashes_N2[:-1]).all(axis=1)])
        before_N = np.roll(splits_N, 1)
        within = np.bincount(splits_N[repeats_N & (splits_N == before_N)], minlength=len(SPLITS))
        across_M = np.flatnonzero(repeats_N & (splits_N != before_N))
        example = None
        if len(across_M):
            pair_2 = [across_M[0] - 1, across_M[0]]
            first, second = format_image_ids(ids_N[pair_2])
            split, other = (SPLITS[index] for index in splits_N[pair_2])
            example = (split, first), (other, second)
        return cls(
            within={s: int(n) for s, n in zip(SPLITS, within, strict=True) if n},
            across=len(across_M),
            example=example,
        )

    @classmethod
    def of_record(cls, text: str | None) -> Duplicates:
        """Read the counts of a manifest, which has none where there was nothing to count."""
        return cls(within={}) if text is None else cls(**json.loads(text))

    def record(self) -> str:
        """Write the counts as the manifest keeps them."""
        return json.dumps({"within": self.within, "across": self.across}, sort_keys=True)

    def __bool__(self) -> bool:
        return bool(self.within or self.across)

    def __str__(self) -> str:
        parts = [f"{count(n, 'image')} of {split} twice" for split, n in self.within.items()]
        if self.across:
            parts.append(f"{count(self.across, 'image')} in two splits")
        if self.example is not None:
            (split, name), (other, again) = self.example
            parts[-1] += f", such as {name} of {split}, which is {again} of {other}"
        return f"the same bytes: {'; '.join(parts)}"


def refuse_across(duplicates: Duplicates | None) -> None:
    """Refuse pictures that are in two splits.

    Raises:
        InputError: there are some, or it is not known.
    """
    if duplicates is None or duplicates.across:
        unknown = "some shards were finished by 0.1.0 or 0.2.0, which did not note this of pictures"
        raise InputError(
            unknown if duplicates is None else str(duplicates),
            fix="take them out of one split's annotations and choose another --output, or leave "
            "--refuse-cross-split-duplicates out; finished shards are kept",
        )
