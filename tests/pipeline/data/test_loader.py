"""Every sample once per epoch on any number of ranks; pixels and labels as they should be."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config.sections import WHOLE_IMAGE, Augmentation, Crop
from pipeline.data import dali
from pipeline.data.labels import LabelJoin
from pipeline.data.loader import Batch, EpochPlan, Loader
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.labels import UNOBSERVED
from sharding.manifest import Dataset


def loader(squares: Path, **options: object) -> Loader:
    defaults = {"batch_size": 5, "image_size": 32, "train": True, "shuffle_buffer": 16, "seed": 1}
    return Loader.of_split(Dataset.open(squares), "train", **{**defaults, **options})


@given(
    samples=st.integers(1, 10_000), world_size=st.integers(1, 64), batch_size=st.integers(1, 512)
)
def test_plan_covers_every_sample_with_equal_steps(
    samples: int, world_size: int, batch_size: int
) -> None:
    if samples < world_size:
        with pytest.raises(InputError, match="fewer workers"):
            EpochPlan(samples=samples, world_size=world_size, batch_size=batch_size)
        return
    plan = EpochPlan(samples=samples, world_size=world_size, batch_size=batch_size)
    shares = [plan.samples_of(rank) for rank in range(world_size)]
    assert sum(shares) == samples
    assert max(shares) - min(shares) <= 1
    assert plan.steps == -(-max(shares) // batch_size)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 96])
def test_every_sample_once_over_all_ranks(squares: Path, world_size: int, batch_size: int) -> None:
    for epoch in (1, 2):
        seen: Counter[int] = Counter()
        steps = []
        for rank in range(world_size):
            one = loader(squares, rank=rank, world_size=world_size, batch_size=batch_size)
            batches = list(one.epoch(epoch))
            steps.append(len(batches))
            seen.update(key for batch in batches for key in batch.image_ids_B.tolist())
            assert sum(map(len, batches)) == one.plan.samples_of(rank)
        assert len(seen) == 96
        assert set(seen.values()) == {1}
        assert set(steps) == {one.plan.steps}


@pytest.mark.parametrize("batch_size", [7, 32, 100])
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_parts_are_runs_of_the_splits_batches(squares: Path, batch_size: int, parts: int) -> None:
    whole = loader(squares, train=False, batch_size=batch_size)
    shares = [whole.part(part, parts) for part in range(parts)]
    batches = [batch for share in shares for batch in share.epoch(0)]
    for ours, theirs in zip(batches, whole.epoch(0), strict=True):
        assert np.array_equal(ours.image_ids_B, theirs.image_ids_B)
        assert torch.equal(ours.images_BHWC, theirs.images_BHWC)
    counts = [share.plan.steps for share in shares]
    assert max(counts) - min(counts) <= 1
    read = [sum(share.counts) for share in shares]
    assert [share.first for share in shares] == [sum(read[:part]) for part in range(parts)]


def test_parts_may_be_of_the_first_images_alone(squares: Path) -> None:
    whole = loader(squares, train=False, batch_size=7)
    shares = [whole.part(part, 2, images=40) for part in range(2)]
    found = [key for share in shares for batch in share.epoch(0) for key in batch.image_ids_B]
    assert found == order(squares, 0, train=False)[:40]


def order(squares: Path, epoch: int, **options: object) -> list[int]:
    return [key for batch in loader(squares, **options).epoch(epoch) for key in batch.image_ids_B]


def test_an_epoch_is_a_function_of_seed_and_number(squares: Path) -> None:
    first = order(squares, 1)
    assert order(squares, 1) == first
    assert order(squares, 1, threads=2) == first
    assert order(squares, 2) != first
    assert order(squares, 1, seed=2) != first
    assert order(squares, 1, train=False) == sorted(first)


def test_flips_are_repeatable_and_differ_between_ranks(squares: Path) -> None:
    def pixels(rank: int) -> torch.Tensor:
        options = {"rank": rank, "world_size": 2, "shuffle_buffer": 1}
        return torch.cat([b.images_BHWC.clone() for b in loader(squares, **options).epoch(1)])

    assert torch.equal(pixels(0), pixels(0))
    plain = {
        key: image
        for batch in loader(squares, train=False).epoch(0)
        for key, image in zip(batch.image_ids_B.tolist(), batch.images_BHWC.clone(), strict=True)
    }

    def flips(rank: int) -> list[bool]:
        options = {"rank": rank, "world_size": 2, "shuffle_buffer": 1}
        return [
            not torch.equal(image, plain[key])
            for batch in loader(squares, **options).epoch(1)
            for key, image in zip(batch.image_ids_B.tolist(), batch.images_BHWC, strict=True)
        ]

    assert 0 < sum(flips(0)) < 48
    assert flips(0) != flips(1)


@pytest.mark.parametrize("size", [32, 200])
@pytest.mark.parametrize("threads", [1, 3])
def test_pixels_are_those_of_torchvision(squares: Path, size: int, threads: int) -> None:
    from torchvision.transforms.v2 import functional as F

    options = {"train": False, "batch_size": 5, "image_size": size, "threads": threads}
    batch = next(iter(loader(squares, **options).epoch(0)))
    assert batch.images_BHWC.dtype == torch.uint8
    with tarfile.open(squares / "images/train-000000.tar") as tar:
        for image_id, image_HWC in zip(
            format_image_ids(batch.image_ids_B), batch.images_BHWC, strict=True
        ):
            file = tar.extractfile(f"{image_id}.jpg")
            picture_CHW = F.pil_to_tensor(Image.open(io.BytesIO(file.read())).convert("RGB"))  # type: ignore[union-attr]
            expected_CHW = F.resize(picture_CHW, [size, size], antialias=True)
            assert torch.equal(image_HWC, expected_CHW.permute(1, 2, 0))


@pytest.mark.parametrize("crop", ["squash", "random-resized"])
def test_dali_knows_all_that_a_gpus_graph_asks_for(squares: Path, crop: Crop) -> None:
    wanted = loader(squares, device_id=0, augmentation=Augmentation(crop=crop))
    with pytest.raises(RuntimeError, match="CUDA is not available"):  # and nothing before that
        wanted.epoch(1)


@pytest.fixture
def gpu_graph_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's graph does, without a GPU: its operators run on either."""
    monkeypatch.setattr(dali, "_mixed", lambda share: {})
    monkeypatch.setattr(dali, "_on_host", lambda *arguments: dali._on_gpu(*arguments[:3], 0.0))


def test_a_gpu_resizes_as_the_host_does(squares: Path, request: pytest.FixtureRequest) -> None:
    one = loader(squares, train=False, image_size=40)
    ours = next(iter(one.epoch(1))).images_BHWC
    request.getfixturevalue("gpu_graph_on_the_host")
    theirs = next(iter(one.epoch(1))).images_BHWC
    assert not torch.equal(ours, theirs)  # it is another graph
    assert (ours.float() - theirs.float()).abs().mean() < 0.5


@pytest.mark.usefixtures("gpu_graph_on_the_host")
def test_a_gpu_crops_at_random_and_goes_on_where_it_was_left(squares: Path) -> None:
    one = loader(squares, augmentation=Augmentation(crop="random-resized", flip=False))
    whole = [batch.images_BHWC for batch in one.epoch(1)]
    begun = one.epoch(1)
    next(begun)
    rest = [b.images_BHWC for b in one.epoch(1, done=1, position=begun.position())]
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], rest, strict=True))
    uncropped = loader(squares, augmentation=Augmentation(flip=False)).epoch(1)
    assert (next(uncropped).images_BHWC.float() - whole[0].float()).abs().mean() > 5


def test_labels_are_joined_by_id(squares: Path) -> None:
    dataset = Dataset.open(squares)
    table = dataset.labels("train")

    def labels_of(ids_B: npt.NDArray[np.uint64]) -> torch.Tensor:
        images_BHWC = torch.zeros(len(ids_B), 1, 1, 3)
        join = LabelJoin(table=table, num_classes=8)
        return join(Batch(images_BHWC=images_BHWC, image_ids_B=ids_B)).dense()

    labels_BK = labels_of(table.image_ids_N[[40, 3, 77]])
    assert labels_BK.dtype == torch.int8
    assert np.array_equal(labels_BK.numpy(), table.dense(np.array([40, 3, 77]), 8))
    unknown = labels_of(np.array([2**63], np.uint64))
    assert (unknown == UNOBSERVED).all()


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(crop="random-resized"),
        Augmentation(rand_augment=15),
        Augmentation(cutout=0.4),
    ],
    ids=["flip", "crop", "rand-augment", "cutout"],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_an_epoch_goes_on_where_it_was_left(
    squares: Path, augmentation: Augmentation, rank: int
) -> None:
    one = loader(squares, augmentation=augmentation, rank=rank, world_size=2)
    epoch = one.epoch(3)
    for _ in range(4):
        next(epoch)
    position = epoch.position()
    rest, again = list(epoch), list(one.epoch(3, done=4, position=position))
    assert len(rest) == len(again) == one.plan.steps - 4
    for ours, theirs in zip(again, rest, strict=True):
        assert np.array_equal(ours.image_ids_B, theirs.image_ids_B)
        assert torch.equal(ours.images_BHWC, theirs.images_BHWC)


def test_augmentation_changes_training_images_alone(squares: Path) -> None:
    def pixels(**options: object) -> torch.Tensor:
        batches = loader(squares, shuffle_buffer=1, **options).epoch(1)
        return torch.cat([batch.images_BHWC.clone() for batch in batches])

    plain = pixels(augmentation=WHOLE_IMAGE)
    for augmentation in (
        Augmentation(crop="random-resized", flip=False),
        Augmentation(rand_augment=15, flip=False),
        Augmentation(cutout=0.4, flip=False),
    ):
        changed = (pixels(augmentation=augmentation) != plain).flatten(1).any(1)
        assert changed.float().mean() > 0.7
        assert torch.equal(
            pixels(augmentation=augmentation, train=False),
            pixels(augmentation=WHOLE_IMAGE, train=False),
        )


def spoil(dataset: Path, members: int, number: int = 1, first: int = 2) -> set[str]:
    """Overwrite images of a training tar, by default the second, with zeros; their names."""
    tar, spoilt = dataset / f"images/train-{number:06d}.tar", set()
    lines = tar.with_suffix(".idx").read_text().splitlines()[1:]
    with tar.open("r+b") as file:
        for line in lines[first : first + members]:
            _, offset, size, name = line.split(" ")[:4]
            file.seek(int(offset))
            file.write(bytes(int(size)))
            spoilt.add(name)
    return spoilt


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_image_gone_bad_is_named_and_left_out(
    squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, world_size: int
) -> None:
    broken = shutil.copytree(squares, tmp_path / "broken")
    names = spoil(broken, 3)
    for rank in range(world_size):
        whole = loader(squares, rank=rank, world_size=world_size)
        epoch = loader(broken, rank=rank, world_size=world_size).epoch(1)
        ours, theirs = list(epoch), list(whole.epoch(1))
        assert len(ours) == len(theirs)
        for batch, expected in zip(ours, theirs, strict=True):
            ids = format_image_ids(expected.image_ids_B)
            kept = [i for i, image_id in enumerate(ids) if f"{image_id}.jpg" not in names]
            assert format_image_ids(batch.image_ids_B) == [ids[i] for i in kept]
            assert torch.equal(batch.images_BHWC, expected.images_BHWC[kept])
        caplog.clear()
        again = [key for batch in epoch.loader.epoch(1) for key in batch.image_ids_B.tolist()]
        assert again == [key for batch in ours for key in batch.image_ids_B.tolist()]
        assert not caplog.records


def test_an_image_gone_bad_is_left_out_of_its_part(squares: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(squares, tmp_path / "broken")
    names = spoil(broken, 3)
    whole = loader(broken, train=False, batch_size=7)
    ids = [key for part in range(3) for b in whole.part(part, 3).epoch(0) for key in b.image_ids_B]
    assert len(ids) == 96 - 3
    assert not names & {f"{image_id}.jpg" for image_id in format_image_ids(np.array(ids))}


def test_the_warning_names_image_and_fix(
    squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = shutil.copytree(squares, tmp_path / "broken")
    (name,) = spoil(broken, 1)
    list(loader(broken).epoch(1))
    (record,) = caplog.records
    assert name in record.getMessage()
    assert str(broken / "images/train-000001.tar") in record.getMessage()
    assert "--repair" in record.getMessage()
