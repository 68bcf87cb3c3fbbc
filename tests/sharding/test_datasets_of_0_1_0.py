"""Datasets of release 0.1.0 open, are found whole, and are left as they are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from sharding.commands.options import ShardOptions, VerifyOptions
from sharding.commands.prepare import prepare
from sharding.commands.shard import shard_dump
from sharding.commands.verify import verify
from sharding.layout import DESCRIPTIONS, LABELS_CARD_FILE
from sharding.manifest import Dataset
from tests.support.photos import tree
from tests.support.release import unpack

RECORD = re.compile(r"images/.*\.json")
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
    assert report.intact, str(report)
    assert tree(copy) == tree(release / name)


def repeat_command(release: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the command that made `keep`, with another output; return its summary."""
    monkeypatch.chdir(release)
    inputs = {"annotations": Path("first"), "images": "images"}
    options = ShardOptions(images_per_shard=6, ranks=1, output=str(output), **inputs)
    return str(shard_dump(prepare(options), map))


def test_repeating_its_command_changes_nothing(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(release / "keep", tmp_path / "keep")
    assert "already finished; nothing was done" in repeat_command(release, copy, monkeypatch)
    assert tree(copy) == tree(release / "keep")


def test_an_unfinished_one_is_continued(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(release / "unfinished", tmp_path / "keep")
    assert "keep is finished" in repeat_command(release, copy, monkeypatch)
    files, expected = (_without_records(tree(dataset)) for dataset in (copy, release / "keep"))
    assert files.keys() == expected.keys()
    # The table of rejected rows names the folder of the dump, the manifest the hash of that table.
    differing = {name for name in files if files[name] != expected[name]}
    assert differing <= {"quarantine.parquet", "dataset.json", "README.md"}


def _without_records(files: dict[str, str]) -> dict[str, str]:
    """Leave out what a run keeps of its shards until the dataset is finished, and new files."""
    return {
        name: digest
        for name, digest in files.items()
        if not RECORD.fullmatch(name) and name not in (*DESCRIPTIONS, LABELS_CARD_FILE)
    }
