"""Datasets of release 0.1.0 open, are found whole, and are left as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sharding.commands.options import ShardOptions, VerifyOptions
from sharding.commands.prepare import prepare
from sharding.commands.shard import shard_dump
from sharding.commands.verify import verify
from sharding.manifest import Dataset
from tests.support.photos import tree
from tests.support.release import unpack

DATASETS = ("keep", "small", "relabelled", "extended", "rewritten", "imported", "single")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("datasets_0_1_0", tmp_path_factory.mktemp("release"))


@pytest.mark.parametrize("name", DATASETS)
def test_it_opens_with_the_labels_that_its_manifest_counts(release: Path, name: str) -> None:
    dataset = Dataset.open(release / name)
    for version, labels in dataset.manifest.labels.items():
        for split, file in labels.splits.items():
            table = dataset.labels(split, version)
            positives_K, negatives_K = table.count_per_class(len(dataset.classes))
            counts = (len(table), int(positives_K.sum()), int(negatives_K.sum()))
            assert counts == (file.images, file.positives, file.negatives), (version, split)


@pytest.mark.parametrize("name", DATASETS)
def test_nothing_is_found_wrong_with_it(release: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(release / name, tmp_path / name)
    report = verify(VerifyOptions(dataset=str(copy)), map)
    assert report.well, str(report)
    assert tree(copy) == tree(release / name)


def test_repeating_its_command_changes_nothing(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(release / "keep", tmp_path / "keep")
    monkeypatch.chdir(release)
    options = ShardOptions(
        annotations=Path("first"),
        images="images",
        images_per_shard=6,
        ranks=1,
        output=str(tmp_path / "keep"),
    )
    assert "already finished; nothing was done" in str(shard_dump(prepare(options), map))
    assert tree(tmp_path / "keep") == tree(release / "keep")
