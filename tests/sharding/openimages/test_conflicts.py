from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.labels import NEGATIVE, POSITIVE
from sharding.openimages.conflicts import (
    CONFLICTS,
    MACHINE_RANK,
    entry_codes,
    human_counts,
    resolve,
    unpack,
)

HUMAN = st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans(), st.integers(0, 3))
MACHINE = st.tuples(
    st.integers(0, 3), st.integers(0, 2), st.just(False), st.just(MACHINE_RANK)
)  # a machine never says that something is absent
ROWS = st.lists(HUMAN | MACHINE, max_size=24)


def settle(rows, conflict) -> dict[tuple[int, int], bool]:
    """{(image, class): negative}, one pair at a time."""
    said = defaultdict(list)
    for image, cls, negative, rank in rows:
        said[image, cls].append((rank, negative))
    settled = {}
    for pair, votes in said.items():
        humans = [vote for vote in votes if vote[0] != MACHINE_RANK] or votes
        states = {negative for _, negative in humans}
        if len(states) == 1:
            settled[pair] = states.pop()
        elif conflict in ("positive", "negative"):
            settled[pair] = conflict == "negative"
        elif conflict == "verification":
            best = min(rank for rank, _ in humans)
            trusted = {negative for rank, negative in humans if rank == best}
            if len(trusted) == 1:
                settled[pair] = trusted.pop()
    return settled


@pytest.mark.parametrize("conflict", CONFLICTS)
@given(rows=ROWS)
def test_many_rows_are_settled_like_one_pair_at_a_time(conflict, rows):
    images, classes, negative, ranks = np.array(rows, np.int64).reshape(-1, 4).T
    entries_M, counts = resolve(
        images, entry_codes(classes, negative.astype(bool), ranks), conflict
    )
    images_M, classes_M, states_M = unpack(entries_M)
    pairs = list(zip(images_M.tolist(), classes_M.tolist(), strict=True))
    assert dict(zip(pairs, states_M == NEGATIVE, strict=True)) == settle(rows, conflict)
    assert pairs == sorted(set(pairs))
    dropped = counts["duplicates"] + counts["machine_overruled"] + counts["conflict_dropped"]
    assert len(rows) == len(entries_M) + dropped


def test_the_corners_of_the_packing():
    images, classes, ranks = np.array([0, 2**40]), np.array([65_535, 0]), np.array([0, 6])
    entries_M, _ = resolve(images, entry_codes(classes, np.array([True, False]), ranks), "positive")
    for column, expected in zip(
        unpack(entries_M), (images, classes, [NEGATIVE, POSITIVE]), strict=True
    ):
        assert column.tolist() == list(expected)


def test_machines_do_not_count_for_the_groups():
    codes = entry_codes(
        np.array([1, 1, 2]), np.array([False, True, False]), np.array([MACHINE_RANK, 1, 6])
    )
    entries_M, _ = resolve(np.array([0, 1, 1]), codes, "unobserved")
    positives_K, negatives_K = human_counts(entries_M, 4)
    assert (positives_K.tolist(), negatives_K.tolist()) == ([0, 0, 1, 0], [0, 1, 0, 0])
