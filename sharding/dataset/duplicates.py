"""Count images that have the same bytes, within splits and across them, while shards are written.

Later jobs add images to a dataset or remove some: its manifest says then that nobody has counted,
and whoever has to know reads the tars.

A picture that is in train and in test makes a score of something that was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sharding.dataset.members import Members, members_in
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.layout import DUPLICATES, SPLITS, UNCOUNTED
from sharding.log import count
from sharding.manifest import Dataset
from sharding.shards.dispatch import Workers
from sharding.shards.task import PICTURE_DIGITS, ShardOutcome, picture_hash
from sharding.sources.shard import ShardSource


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
            hashes.append(_parse_hashes(outcome.picture_hashes))
            splits.append(np.full(outcome.shard.images, SPLITS.index(outcome.split), np.int8))
            ids_N.append(ids[outcome.shard.path])
        if not hashes:
            return cls(within={})
        return cls._of(np.concatenate(hashes), np.concatenate(splits), np.concatenate(ids_N))

    @classmethod
    def in_tars(cls, dataset: Dataset, workers: Workers) -> Duplicates:
        """Read all images of a dataset and compare them.

        Raises:
            InputError: a tar or an index is missing or damaged.
        """
        members = {part.shard.path: part for part in members_in(dataset)}
        items = [
            (ShardSource.of(dataset.directory, part.shard, workers.bucket), part)
            for part in members.values()
        ]
        found = dict(workers.parallel(_hash_pictures, items))
        return cls._of(
            np.concatenate([found[path] for path in members]),
            np.concatenate(
                [
                    np.full(len(part.image_ids_N), SPLITS.index(part.shard.split), np.int8)
                    for part in members.values()
                ]
            ),
            np.concatenate([part.image_ids_N for part in members.values()]),
        )

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
    def of_record(cls, text: str | None) -> Duplicates | None:
        """Read the counts of a manifest, which has none where there was nothing to count.

        None where nobody has counted.
        """
        if text == UNCOUNTED:
            return None
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


def _parse_hashes(digits: str) -> np.ndarray:
    """Parse `ShardOutcome.picture_hashes` to 128 bits each, (N, 2)."""
    return np.frombuffer(bytes.fromhex(digits), ">u8").reshape(-1, 2)


def _hash_pictures(item: tuple[ShardSource, Members]) -> tuple[str, np.ndarray]:
    """Hash the images of one tar; runs on a worker. Returns the tar's path with the hashes."""
    source, part = item
    ids = format_image_ids(part.image_ids_N)
    with source.reader(part.shard.split, ids) as read:
        return part.shard.path, _parse_hashes("".join(picture_hash(read(each)) for each in ids))


def refuse_across_in(dataset: Dataset, workers: Workers) -> None:
    """Refuse a finished dataset that has pictures in two splits; read it where nobody has counted.

    Raises:
        InputError: there are some, or a tar cannot be read.
    """
    counted = Duplicates.of_record(dataset.manifest.created_by.get(DUPLICATES))
    refuse_across(Duplicates.in_tars(dataset, workers) if counted is None else counted)


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
