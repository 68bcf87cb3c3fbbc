"""Scores of annotated entries: the same from any number of parts, right, and kept in a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.cluster import preemption
from pipeline.config.sections import DataConfig, ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.data.labels import LabelledSplit
from pipeline.data.loader import Loader
from pipeline.data.unreadable import LeftOut
from pipeline.evaluation.metrics import average_precision
from pipeline.evaluation.per_class import PerClass
from pipeline.evaluation.scores import Scores, score
from pipeline.models import cam_net
from pipeline.training import validation
from pipeline.training.loop import StopRequested
from pipeline.training.state import Rank
from pipeline.training.validation import Validator
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.manifest import Dataset
from tests.pipeline.evaluation.entries import reordered
from tests.support.distributed import run_ranks
from tests.support.models import BACKBONE
from tests.support.training import Recorder

K = 8


@pytest.fixture(scope="module")
def model() -> cam_net.CamNet:
    torch.manual_seed(0)
    return cam_net.build(ModelConfig(backbone=BACKBONE), K)


def scores_of(squares: Path, model: cam_net.CamNet, parts: int, batch_size: int) -> Scores:
    sizes = {"batch_size": batch_size, "image_size": 64}
    split = LabelledSplit.open(Dataset.open(squares), "test", None, torch.device("cpu"), **sizes)
    return Scores.concatenate([score(model, split.part(part, parts)) for part in range(parts)])


def test_every_annotated_entry_is_scored_once(squares: Path, model: cam_net.CamNet) -> None:
    found = scores_of(squares, model, parts=1, batch_size=5)
    table = Dataset.open(squares).labels("test")
    assert len(found.labels_E) == len(table.states_E) == 24 * 4
    pairs = set(zip(format_image_ids(found.image_ids_E), found.classes_E.tolist(), strict=True))
    assert len(pairs) == 24 * 4
    per_class = PerClass.of(found, Dataset.open(squares).classes)
    expected = table.count_per_class(K)
    assert np.array_equal(per_class.positives_K, expected[0])
    assert np.array_equal(per_class.negatives_K, expected[1])


def test_scores_are_the_networks_logits(squares: Path, model: cam_net.CamNet) -> None:
    found = scores_of(squares, model, parts=1, batch_size=24)
    dataset = Dataset.open(squares)
    (batch,) = Loader.of_split(dataset, "test", batch_size=24, image_size=64).epoch(0)
    with torch.no_grad():
        boosted_BK = model.eval()(batch.images_BHWC)
    rows_E = dataset.labels("test").rows_of(found.image_ids_E)
    np.testing.assert_allclose(
        found.boosted_E, boosted_BK.numpy()[rows_E, found.classes_E], rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(found.raw_E, found.boosted_E)


@pytest.mark.parametrize("batch_size", [3, 5, 24])
def test_any_number_of_parts_gives_the_same_bits(
    squares: Path, model: cam_net.CamNet, batch_size: int
) -> None:
    one = scores_of(squares, model, 1, batch_size)
    for parts in (2, 3, 6):  # more than there are batches, too
        many = scores_of(squares, model, parts, batch_size)
        for name, values in vars(one).items():
            assert getattr(many, name).tobytes() == values.tobytes(), (parts, name)


def validator_of(squares: Path, *, batch_size: int, rank: int, world_size: int) -> Validator:
    data = DataConfig(image_size=64, batch_size=batch_size)
    return Validator(
        config=TrainConfig(dataset=str(squares), data=data),
        dataset=Dataset.open(squares),
        rank=Rank(device=torch.device("cpu"), threads=1, number=rank, world_size=world_size),
        run_log=Recorder(),
        left_out=LeftOut(),
    )


def test_ranks_that_validate_together_give_the_bits_of_one(
    squares: Path, model: cam_net.CamNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Scores] = []
    monkeypatch.setattr(validation, "gather", lambda scores: found.append(scores) or scores)
    monkeypatch.setattr(Validator, "_send_maps", lambda *_: None)

    def together(size: int) -> Scores:
        found.clear()
        for rank in range(size):
            validator = validator_of(squares, batch_size=12, rank=rank, world_size=size)
            validator(model, epoch=1, images_seen=96)
        return Scores.concatenate(found)

    one = together(1)
    for size in (2, 3):
        many = together(size)
        assert one.boosted_E.tobytes() == many.boosted_E.tobytes()
        assert one.image_ids_E.tobytes() == many.image_ids_E.tobytes()


def left_or_scored(
    rank: int, squares: Path, model: cam_net.CamNet, stop_at: int | None
) -> tuple[str, int]:
    """How one of two ranks comes out of five batches, and how often it asked whether to leave."""
    asked = 0
    vote = preemption.StopVote(
        rank=rank,
        device=torch.device("cpu"),
        stop_requested=lambda: asked == stop_at,
        node_drained=lambda: False,
    )

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return vote()

    validator = validator_of(squares, batch_size=8, rank=rank, world_size=2)
    validator._send_maps = lambda *_: None  # type: ignore[method-assign]
    try:
        metrics = validator(model, epoch=1, images_seen=96, should_stop=should_stop)
    except StopRequested as stopped:
        return str(stopped), asked
    return f"scored {metrics['val/mAP/all'] > 0}", asked


def test_ranks_with_unequal_shares_leave_a_validation_together(
    squares: Path, model: cam_net.CamNet
) -> None:
    left = ("stopped after batch 2 of the validation", 2)
    assert run_ranks(left_or_scored, 2, squares, model, 1) == [left, left]
    assert run_ranks(left_or_scored, 2, squares, model, None) == [("scored True", 2)] * 2


def test_a_rank_without_images_has_no_entries(squares: Path) -> None:
    nothing = Scores.concatenate([])
    assert len(nothing.labels_E) == 0
    table = PerClass.of(nothing, Dataset.open(squares).classes)
    assert table.positives_K.tolist() == [0] * K


def random_scores(size: int = 500) -> Scores:
    rng = np.random.default_rng(0)
    pairs = rng.choice(100 * 9, size, replace=False)
    return Scores(
        # Ids with leading zeros, all digits and the top bit set must survive as text.
        image_ids_E=(pairs // 9).astype(np.uint64) * np.uint64(2**57 + 3),
        classes_E=pairs % 9,
        labels_E=rng.integers(0, 2, size).astype(np.int8),
        raw_E=rng.normal(size=size).astype(np.float32),
        boosted_E=rng.normal(size=size).astype(np.float32),
    )


def test_average_precision_survives_the_round_trip_to_the_last_bit(tmp_path: Path) -> None:
    before = random_scores()
    (tmp_path / "scores.parquet").write_bytes(before.to_parquet())
    after = Scores.read(tmp_path / "scores.parquet")
    for boosted in (False, True):
        ap_K = [
            average_precision(s.logits(boosted=boosted), s.labels_E, s.classes_E, 9).tobytes()
            for s in (before, after)
        ]
        assert ap_K[0] == ap_K[1]
    assert set(after.image_ids_E) == set(before.image_ids_E)


def test_bytes_do_not_depend_on_the_order_of_entries() -> None:
    first = random_scores()
    order = np.random.default_rng(1).permutation(len(first.labels_E))
    second = reordered(first, order)
    assert first.to_parquet() == second.to_parquet()


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="score file is missing"):
        Scores.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"image_id": ["0"]}), tmp_path / "other.parquet")
    for name in ("text", "other"):
        with pytest.raises(InputError, match="not a score file"):
            Scores.read(tmp_path / f"{name}.parquet")


def test_entries_without_image_or_label_are_refused() -> None:
    entries = random_scores(10)
    with pytest.raises(InputError, match="without label"):
        dataclasses.replace(entries, labels_E=np.full(10, -1, np.int8))
    with pytest.raises(InputError, match="number of images"):
        dataclasses.replace(entries, image_ids_E=np.arange(9))
