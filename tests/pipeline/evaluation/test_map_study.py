"""The study of a split's maps: of verified positives only, the same from any number of parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.labels import LabelledSplit
from pipeline.evaluation import attribution
from pipeline.evaluation.attribution import NONE, Attributions, MapStudy
from pipeline.evaluation.pointing_game import Boxes
from pipeline.models import checkpoint
from sharding.labels import POSITIVE
from sharding.manifest import Dataset
from tests.support.models import SIZE, write_checkpoint

NOTHING = MapStudy(attributions=NONE, hits_K=np.zeros(8, int), pointed_K=np.zeros(8, int))


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
    return [attribution.study(model, share, images, boxes) for share in shares]


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
