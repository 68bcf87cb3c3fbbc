"""Place images in shards: a pure function of their ids, a seed and a bound.

Placement never depends on file order: the low ids of Open Images V3 carry fifty times the mean
number of labels, so that cutting by id or by file would make some shards unlike all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharding.image_ids import Ids
from sharding.layout import shard_name

SHARDS_PER_RANK = 8
SMALLEST_SHARD = 64
"""Images below which a shard is not made smaller for the sake of `SHARDS_PER_RANK`."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to write: ``image_ids_N`` (uint64, ascending) of one split."""

    split: str
    number: int
    image_ids_N: Ids

    def __len__(self) -> int:
        return len(self.image_ids_N)

    @property
    def name(self) -> str:
        """File name without suffix, such as "train-000123"."""
        return shard_name(self.split, self.number)


def splitmix64(keys_N: Ids) -> Ids:
    """Mix 64 bits, bijectively (Steele, Lea, Flood 2014: the output function of SplitMix)."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(keys_N, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def shard_of(image_ids_N: Ids, *, seed: int, num_shards: int) -> npt.NDArray[np.int64]:
    """Compute the number of the shard of each image, in ``[0, num_shards)``."""
    mixed = splitmix64(np.asarray(image_ids_N, np.uint64) ^ np.uint64(seed))
    return (mixed % np.uint64(num_shards)).astype(np.int64)


def choose_num_shards(image_ids_N: Ids, *, seed: int, largest: int, at_least: int = 1) -> int:
    """Choose the least number of shards of which none exceeds ``largest``.

    Args:
        image_ids_N: distinct ids of a split.
        seed: placement seed.
        largest: bound of a shard, in images.
        at_least: wanted for parallel reading, as far as `SMALLEST_SHARD` allows.
    """
    wanted = min(at_least, len(image_ids_N) // SMALLEST_SHARD)
    num_shards = max(1, wanted, -(-len(image_ids_N) // largest))
    while True:
        placed_N = shard_of(image_ids_N, seed=seed, num_shards=num_shards)
        fullest = int(np.bincount(placed_N, minlength=num_shards).max(initial=0))
        if fullest <= largest or num_shards >= 2 * len(image_ids_N):
            return num_shards
        # The fullest shard shrinks about as the mean does; one step is the least progress.
        num_shards = max(num_shards + 1, num_shards * fullest // largest)


def plan_split(
    split: str, image_ids_N: Ids, *, seed: int, num_shards: int, first: int = 0
) -> list[ShardPlan]:
    """Place the images of a split; shards without any image are left out.

    ``first`` is the number of the first shard, for shards added to an existing set.
    """
    ids_N = np.unique(np.asarray(image_ids_N, np.uint64))
    placed_N = shard_of(ids_N, seed=seed, num_shards=num_shards)
    order = np.argsort(placed_N, kind="stable")  # ids stay ascending within a shard
    ends = np.cumsum(np.bincount(placed_N, minlength=num_shards))
    return [
        ShardPlan(split=split, number=first + number, image_ids_N=members_M)
        for number, members_M in enumerate(np.split(ids_N[order], ends[:-1]))
        if len(members_M)
    ]
