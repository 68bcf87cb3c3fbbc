"""Attribution scores are counted once, exactly at zero, and come back from a file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.evaluation.attribution import EDGES, NONE, WIDTH, Attributions
from sharding.errors import InputError

SCORES = arrays.arrays(np.float32, st.integers(0, 60), elements=st.floats(-100, 100, width=32))


@given(SCORES)
def test_every_score_is_in_the_bin_around_it(scores: np.ndarray) -> None:
    found = Attributions.of(scores)
    clipped = np.clip(scores.astype(np.float64), EDGES[0], EDGES[-1] - 1e-9)
    assert np.array_equal(found.counts_H, np.histogram(clipped, EDGES)[0])
    assert found.density_H.sum() * WIDTH == pytest.approx(1 if len(scores) else 0)


@given(SCORES, SCORES)
def test_parts_add_up_to_the_whole(first: np.ndarray, second: np.ndarray) -> None:
    whole = Attributions.of(np.concatenate([first, second]))
    summed = Attributions.of(first) + Attributions.of(second) + NONE
    assert np.array_equal(whole.counts_H, summed.counts_H)
    assert whole.positive_sum == summed.positive_sum


def test_what_lies_above_zero() -> None:
    found = Attributions.of(np.array([[-1.0, -0.01, 0.01], [3.0, 100.0, -200.0]]))
    assert found.above_zero == pytest.approx(3 / 6)
    assert found.mean_above_zero == pytest.approx((0.01 + 3 + 100) / 3)
    assert math.isnan(NONE.above_zero)
    assert math.isnan(NONE.mean_above_zero)


def test_round_trip_and_damage() -> None:
    found = Attributions.of(np.linspace(-7, 3, 50))
    raw = json.loads(json.dumps(found.as_json()))
    again = Attributions.from_json(raw, "a.json")
    assert np.array_equal(again.counts_H, found.counts_H)
    assert again.positive_sum == found.positive_sum
    for broken in ({}, {**raw, "edges": raw["edges"][1:]}, {**raw, "counts": [1]}):
        with pytest.raises(InputError, match=r"a\.json: no attribution scores"):
            Attributions.from_json(broken, "a.json")


def test_a_broken_network_is_told() -> None:
    with pytest.raises(InputError, match="not finite"):
        Attributions.of(np.array([np.nan]))
