"""Pipelines held from one epoch to the next read what new ones would read."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.sections import Augmentation
from pipeline.data import dali
from pipeline.data.labels import FirstBatches, LabelledSplit
from pipeline.data.loader import Batch
from pipeline.training.epoch import run_epoch
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset
from tests.pipeline.data.test_loader import loader, spoil
from tests.support.training import CPU, EPOCHS, begun, worker_for

MAIN = threading.main_thread().name


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that built a pipeline, in order."""
    found: list[str] = []
    build = dali.batches

    def recorded(*arguments: object, **options: object) -> object:
        found.append(threading.current_thread().name)
        return build(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(dali, "batches", recorded)
    return found


def assert_equal(ours: Iterable[Batch], theirs: Iterable[Batch]) -> None:
    """The same images in the same batches, to the last bit."""
    count = 0
    for batch, expected in zip(ours, theirs, strict=True):
        assert np.array_equal(batch.image_ids_B, expected.image_ids_B)
        assert torch.equal(batch.images_BHWC, expected.images_BHWC)
        count += 1
    assert count


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(crop="random-resized"), Augmentation(rand_augment=15)],
    ids=["crop", "rand-augment"],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_epochs_that_were_built_ahead_are_those_of_new_pipelines(
    squares: Path, builders: list[str], augmentation: Augmentation, rank: int
) -> None:
    options = {"rank": rank, "world_size": 2, "augmentation": augmentation}
    ours = loader(squares, **options)
    for number in (1, 2, 3):
        batches = []
        for batch in ours.epoch(number):
            batches.append(batch)
            ours.build_ahead(number + 1)  # again and again, as at the end of an epoch
        assert_equal(batches, loader(squares, **options).epoch(number))
    assert builders.count(MAIN) == 4, "the first epoch, and the three to compare with"
    assert len(builders) == 4 + 3


def test_an_epoch_that_was_built_ahead_is_left_and_continued(
    squares: Path, builders: list[str]
) -> None:
    expected = list(loader(squares).epoch(2))
    for left_after in (1, 3):
        ours = loader(squares)
        ours.build_ahead(2)
        epoch = ours.epoch(2)
        first = list(itertools.islice(epoch, left_after))
        ours.build_ahead(3)
        rest = ours.epoch(2, done=left_after, position=epoch.position())
        assert_equal([*first, *rest], expected)
        assert_equal(ours.epoch(3), loader(squares).epoch(3))
    assert any(name != MAIN for name in builders)


@pytest.mark.parametrize("epoch_of_damage", [1, 2])
def test_a_damaged_image_does_not_reach_the_epoch_built_ahead(
    squares: Path, tmp_path: Path, epoch_of_damage: int
) -> None:
    broken = shutil.copytree(squares, tmp_path / "broken")
    ours = loader(broken, batch_size=16)
    epoch = ours.epoch(1)
    next(epoch)
    if epoch_of_damage == 1:
        ours.build_ahead(2)
    bad = spoil(broken, 16, number=0, first=0)  # of every batch some
    if epoch_of_damage == 2:
        ours.build_ahead(2)  # which decodes a damaged batch in its thread
    list(epoch)
    kept = [
        [name for name in format_image_ids(batch.image_ids_B) if f"{name}.jpg" not in bad]
        for batch in loader(squares, batch_size=16).epoch(2)
    ]
    assert [format_image_ids(batch.image_ids_B) for batch in ours.epoch(2)] == kept


def test_what_fails_ahead_is_an_error_where_the_epoch_begins(
    squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("no memory")

    ours = loader(squares)
    epoch = ours.epoch(1)
    monkeypatch.setattr(dali, "batches", fails)
    ours.build_ahead(2)
    assert len(list(epoch)) == ours.plan.steps
    with pytest.raises(RuntimeError, match="no memory"):
        ours.epoch(2)


def test_a_pass_in_order_goes_back_to_the_start(squares: Path, builders: list[str]) -> None:
    expected = list(loader(squares, train=False, batch_size=7).epoch(0))
    ours = loader(squares, train=False, batch_size=7)
    for _ in range(3):
        assert_equal(ours.epoch(0), expected)
    assert len(builders) == 2
    next(ours.epoch(0))  # a pass that is stopped is not gone on with
    assert_equal(ours.epoch(0), expected)
    assert len(builders) == 3


def test_a_pass_in_order_leaves_out_what_went_bad(squares: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(squares, tmp_path / "broken")
    ours = loader(broken, train=False, batch_size=7).part(0, 2)
    whole = loader(squares, train=False, batch_size=7).part(0, 2)
    assert_equal(ours.epoch(0), whole.epoch(0))
    bad = spoil(broken, 2, number=0, first=20)
    for _ in range(2):
        ids = [name for b in ours.epoch(0) for name in format_image_ids(b.image_ids_B)]
        all_ids = [name for b in whole.epoch(0) for name in format_image_ids(b.image_ids_B)]
        assert ids == [name for name in all_ids if f"{name}.jpg" not in bad]


def test_a_rank_among_others_reads_its_own_share_again(squares: Path) -> None:
    options = {"train": False, "rank": 1, "world_size": 2}
    ours = loader(squares, **options)
    for _ in range(2):
        assert_equal(ours.epoch(0), loader(squares, **options).epoch(0))


def test_first_batches_are_read_once(squares: Path, builders: list[str]) -> None:
    split = LabelledSplit.open(
        Dataset.open(squares), "validation", None, CPU, image_size=32, batch_size=5
    )
    first = FirstBatches(split)
    assert not builders
    short = list(itertools.islice(first, 2))
    assert_equal(itertools.islice(first, 3), itertools.islice(split.epoch(0), 3))
    assert next(iter(first)) is short[0]
    assert_equal(first, split.epoch(0))


def test_a_training_begins_every_epoch_ahead_but_builds_none_after_the_last(
    squares: Path, builders: list[str]
) -> None:
    worker = begun(worker_for(squares, "an"))
    for epoch in range(1, EPOCHS + 1):
        run_epoch(worker, epoch)
    assert builders[0] == MAIN
    assert [name.rpartition("_")[0] for name in builders[1:]] == ["next-epoch"] * (EPOCHS - 1)


def test_validations_share_a_pipeline_and_so_do_their_maps(
    squares: Path, builders: list[str]
) -> None:
    worker = begun(worker_for(squares, "an"))
    scores = [worker.validate() for _ in range(2)]
    assert scores[0] == scores[1]
    assert len(builders) == 2, "the validation split, and the images of the maps"
