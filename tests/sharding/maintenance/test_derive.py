"""Labels derived from others, against dictionaries: draws by image, closures entry by entry."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sharding.labels import LabelTable
from sharding.maintenance.derive import close, keep_known, keep_single_positive
from sharding.openimages.hierarchy import Hierarchy, Relation
from tests.sharding.maintenance.test_diff import tables
from tests.sharding.test_labels import states

# 0 is above 1 and 2, 1 above 3; 4 and 5 stand alone.
BELOW = ({1, 2, 3}, {3}, set(), set(), set(), set())
ABOVE = tuple({k for k, below in enumerate(BELOW) if other in below} for other in range(6))
HIERARCHY = Hierarchy(ancestors=Relation.of(ABOVE), descendants=Relation.of(BELOW))


@given(tables(), st.floats(0.01, 1), st.integers(0, 3), st.randoms())
def test_a_share_is_exact_nested_and_independent_of_the_order(table, share, draw, random) -> None:
    kept = states(keep_known(table, share, draw))
    assert kept.items() <= states(table).items()
    assert len(kept) == round(share * len(table.classes_E))
    assert states(keep_known(table, share / 2, draw)).items() <= kept.items()
    ids = table.image_ids_N.tolist()
    random.shuffle(ids)
    shuffled = table.select(np.array(ids, np.uint64))
    assert states(keep_known(shuffled, share, draw)) == kept
    assert states(keep_single_positive(shuffled, draw)) == states(keep_single_positive(table, draw))


@given(tables(), st.integers(0, 3))
def test_one_positive_of_each_image_stays(table, draw) -> None:
    kept = keep_single_positive(table, draw)
    assert kept.image_ids_N.tolist() == table.image_ids_N.tolist()
    positives = {key for key, state in states(table).items() if state}
    assert set(states(kept).values()) <= {1}
    assert states(kept).keys() <= positives
    assert {image for image, _ in states(kept)} == {image for image, _ in positives}
    assert len(states(kept)) == len({image for image, _ in positives})


def test_draws_differ_and_are_even() -> None:
    many = LabelTable.from_lists([f"{n:016x}" for n in range(3000)], [range(4)] * 3000, [[]] * 3000)
    first, second = (keep_single_positive(many, draw).classes_E for draw in (0, 1))
    assert 0.2 < (first == second).mean() < 0.3
    assert (np.abs(np.bincount(first) - 750) < 120).all()


@given(tables())
def test_a_closure_is_that_of_a_dictionary(table) -> None:
    known = states(table)
    implied: dict[tuple[int, int], set[int]] = {}
    for (image, k), state in known.items():
        for other in ABOVE[k] if state else BELOW[k]:
            implied.setdefault((image, other), set()).add(state)
    closed, report = close(table, HIERARCHY)
    free = {key: said for key, said in implied.items() if key not in known}
    added = {key: min(said) for key, said in free.items() if len(said) == 1}
    assert states(closed) == {**added, **known}, "what is there stays"
    assert report == {
        "derived_positives": sum(added.values()),
        "derived_negatives": len(added) - sum(added.values()),
        "derived_conflicts": sum(
            1 - known[key] in said for key, said in implied.items() if key in known
        ),
        "derived_both_ways": len(free) - len(added),
    }
    assert list(closed.shards) == list(table.shards)
