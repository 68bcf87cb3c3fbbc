"""Attribution scores are counted exactly; maps are studied the same from any number of parts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.data.labels import LabelledSplit
from pipeline.evaluation.attribution import EDGES, NONE, WIDTH, Attributions, MapStudy, study
from pipeline.evaluation.pointing_game import Boxes
from pipeline.models import checkpoint
from sharding.errors import InputError
from sharding.labels import POSITIVE
from sharding.manifest import Dataset
from tests.support.models import SIZE, write_checkpoint

SCORES = arrays.arrays(np.float32, st.integers(0, 60), elements=st.floats(-100, 100, width=32))
NOTHING = MapStudy(attributions=NONE, hits_K=np.zeros(8, int), pointed_K=np.zeros(8, int))


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
    again = Attributions.from_json(raw)
    assert np.array_equal(again.counts_H, found.counts_H)
    assert again.positive_sum == found.positive_sum
    for broken in ({}, {**raw, "edges": raw["edges"][1:]}, {**raw, "counts": [1]}):
        with pytest.raises((KeyError, ValueError)):
            Attributions.from_json(broken)


def test_a_broken_network_is_told() -> None:
    with pytest.raises(InputError, match="not finite"):
        Attributions.of(np.array([np.nan]))


@pytest.fixture(scope="module")
def everything(squares: Path) -> Boxes:
    """One box per image and class: the left half for even classes, the whole for odd ones."""
    ids_N = np.repeat(np.sort(Dataset.open(squares).labels("test").image_ids_N), 8)
    classes_N = np.tile(np.arange(8), len(ids_N) // 8)
    edges_N4 = np.tile([0.0, 1.0, 0.0, 1.0], (len(ids_N), 1))
    edges_N4[classes_N % 2 == 0, 1] = 0.5
    return Boxes(keys_N=ids_N, classes_N=classes_N, edges_N4=edges_N4)


def studied(
    squares: Path, directory: Path, boxes: Boxes | None, images: int, parts: int = 1
) -> list[MapStudy]:
    dataset = Dataset.open(squares)
    model, _ = checkpoint.load_model(directory)
    split = LabelledSplit.open(
        dataset, "test", None, torch.device("cpu"), batch_size=5, image_size=SIZE
    )
    shares = [split.part(part, parts) for part in range(parts)]
    return [study(model, share, images, boxes) for share in shares]


@pytest.fixture(scope="module")
def saved(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("maps") / "checkpoint", squares)


def test_every_verified_positive_is_asked_once(
    squares: Path, saved: Path, everything: Boxes
) -> None:
    (whole,) = studied(squares, saved, everything, images=24)
    table = Dataset.open(squares).labels("test")
    positives_K, _ = table.count_per_class(8)
    assert np.array_equal(whole.pointed_K, positives_K)
    assert np.array_equal(whole.hits_K[1::2], positives_K[1::2])
    assert whole.hits_K[0::2].sum() < positives_K[0::2].sum()
    # A 64 pixel image has a map of 2 x 2.
    assert whole.attributions.counts_H.sum() == 4 * positives_K.sum()
    first, second = studied(squares, saved, everything, images=24, parts=2)
    assert np.array_equal((first + second).hits_K, whole.hits_K)
    assert np.array_equal((first + second).attributions.counts_H, whole.attributions.counts_H)


def test_only_so_many_images_are_counted(squares: Path, saved: Path) -> None:
    (some,) = studied(squares, saved, None, images=7)
    table = Dataset.open(squares).labels("test")
    of_seven = table.observed(np.arange(7))
    assert some.attributions.counts_H.sum() == 4 * (of_seven.states_E == POSITIVE).sum()
    assert some.pointing_game(np.ones(8, int)) == {}


@pytest.mark.parametrize("boxed", [False, True])
def test_the_images_counted_are_the_splits_first_from_any_number_of_parts(
    squares: Path, saved: Path, everything: Boxes, boxed: bool
) -> None:
    boxes = everything if boxed else None
    (whole,) = studied(squares, saved, boxes, images=10)
    for parts in (2, 4):
        shared = sum(studied(squares, saved, boxes, images=10, parts=parts), start=NOTHING)
        assert np.array_equal(shared.attributions.counts_H, whole.attributions.counts_H)
        assert shared.attributions.positive_sum == whole.attributions.positive_sum
        assert np.array_equal(shared.hits_K, whole.hits_K)


def test_the_game_is_a_mean_over_classes() -> None:
    found = MapStudy(
        attributions=Attributions.of(np.zeros(0)),
        hits_K=np.array([1, 9, 0, 0]),
        pointed_K=np.array([2, 9, 4, 0]),
    )
    game = found.pointing_game(np.array([1, 1, 2, 3]))
    assert game == {"all": pytest.approx(0.5), "group_1": pytest.approx(0.75), "group_2": 0.0}
