"""Placement: a function of the id, bounded, balanced, complete."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.shards.plan import ShardPlan, choose_num_shards, plan_split, shard_of, splitmix64

IDS = st.lists(st.integers(0, 2**64 - 1), unique=True, min_size=1, max_size=300)


def placed(plans: list[ShardPlan]) -> dict[int, str]:
    return {int(key): plan.name for plan in plans for key in plan.image_ids_N}


def test_splitmix64_yields_the_published_sequence() -> None:
    # First outputs of SplittableRandom with seed 0: the mixer of k times the golden gamma.
    keys = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [f"{int(key):016x}" for key in splitmix64(keys)] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


@settings(max_examples=60, deadline=None)
@given(IDS, st.integers(0, 2**63 - 1), st.integers(1, 50), st.randoms())
def test_every_image_is_in_one_shard_whatever_the_order(ids, seed, largest, random) -> None:
    keys = np.array(ids, np.uint64)
    num_shards = choose_num_shards(keys, seed=seed, largest=largest)
    plans = plan_split("train", keys, seed=seed, num_shards=num_shards)
    shuffled = list(ids)
    random.shuffle(shuffled)
    again = plan_split("train", np.array(shuffled, np.uint64), seed=seed, num_shards=num_shards)
    assert placed(plans) == placed(again)
    assert sorted(placed(plans)) == sorted(ids)
    assert all(np.all(np.diff(plan.image_ids_N) > 0) for plan in plans)
    assert all(len(plan) for plan in plans)
    if num_shards < 2 * len(ids):
        assert max(map(len, plans)) <= largest


def test_an_image_stays_where_it_is_when_others_come_and_go() -> None:
    keys = np.arange(1000, dtype=np.uint64)
    whole = placed(plan_split("train", keys, seed=1, num_shards=7))
    part = placed(plan_split("train", keys[::3], seed=1, num_shards=7))
    assert part == {key: whole[key] for key in part}


def test_neighbouring_ids_are_spread_evenly() -> None:
    # The low ids of V3 are the densest; a shard must not get them all.
    counts = np.bincount(shard_of(np.arange(100_000, dtype=np.uint64), seed=0, num_shards=50))
    assert counts.min() > 1700
    assert counts.max() < 2300


def test_seeds_place_differently() -> None:
    keys = np.arange(1000, dtype=np.uint64)
    first, second = (shard_of(keys, seed=seed, num_shards=10) for seed in (0, 1))
    assert np.mean(first == second) < 0.2


@pytest.mark.parametrize(
    ("images", "at_least", "expected"), [(10_000, 16, 16), (500, 16, 7), (50, 16, 1)]
)
def test_parallel_readers_get_shards_as_far_as_the_images_go(images, at_least, expected) -> None:
    keys = np.arange(images, dtype=np.uint64)
    assert choose_num_shards(keys, seed=0, largest=4096, at_least=at_least) == expected


def test_added_shards_continue_the_numbers() -> None:
    plans = plan_split("test", np.arange(5, dtype=np.uint64), seed=0, num_shards=1, first=12)
    assert [plan.name for plan in plans] == ["test-000012"]
