"""Images with the same bytes are counted when they are sharded, within splits and across them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sharding.commands.options import RemoveOptions
from sharding.commands.remove import remove
from sharding.errors import InputError
from sharding.manifest import Manifest
from tests.support.commands import Inputs, backwards, check, shard
from tests.support.photos import image_ids


@pytest.fixture
def repeated(inputs: Inputs, tmp_path: Path) -> Inputs:
    """Two training images of one picture, and a test image that is a third training image."""
    images = Path(shutil.copytree(inputs[1], tmp_path / "jpegs"))
    train, test = image_ids(images, "train"), image_ids(images, "test")
    shutil.copy(images / f"train/{train[0]}.jpg", images / f"train/{train[20]}.jpg")
    shutil.copy(images / f"train/{train[5]}.jpg", images / f"test/{test[1]}.jpg")
    return inputs[0], images


def test_they_are_counted_in_the_log_and_the_manifest(repeated, tmp_path: Path, capsys) -> None:
    shard(repeated, tmp_path / "dataset")
    said = "".join(capsys.readouterr())
    train, test = (image_ids(repeated[1], split) for split in ("train", "test"))
    assert "1 image of train twice; 1 image in two splits" in said
    assert f"such as {train[5]} of train, which is {test[1]} of test" in said
    created_by = Manifest.read(tmp_path / "dataset").created_by
    assert json.loads(created_by["duplicates"]) == {"within": {"train": 1}, "across": 1}


def test_across_splits_they_are_refused_on_request(repeated, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    with pytest.raises(InputError, match=r"1 image in two splits.*finished shards are kept"):
        shard(repeated, output, refuse_cross_split_duplicates=True)
    assert not (output / "dataset.json").exists()
    assert "continued" in shard(repeated, output)  # without the option
    with pytest.raises(InputError, match="1 image in two splits"):
        shard(repeated, output, refuse_cross_split_duplicates=True)  # of what is finished
    shard(repeated, tmp_path / "other")
    assert Manifest.read(output).shards == Manifest.read(tmp_path / "other").shards


def test_within_a_split_they_are_not_refused(inputs, tmp_path: Path) -> None:
    images = Path(shutil.copytree(inputs[1], tmp_path / "jpegs"))
    train = image_ids(images, "train")
    shutil.copy(images / f"train/{train[0]}.jpg", images / f"train/{train[20]}.jpg")
    shard((inputs[0], images), tmp_path / "dataset", refuse_cross_split_duplicates=True)


def test_images_with_the_same_end_only_are_others(inputs: Inputs, tmp_path: Path) -> None:
    images = Path(shutil.copytree(inputs[1], tmp_path / "jpegs"))
    train, test = image_ids(images, "train"), image_ids(images, "test")
    whole = (images / f"train/{train[0]}.jpg").read_bytes()
    ending = whole[-2:]
    for file, letter in ((f"train/{train[0]}.jpg", b"a"), (f"test/{test[1]}.jpg", b"b")):
        comment = b"\xff\xfe\x00\x03" + letter
        (images / file).write_bytes(whole[:2] + comment + whole[2:-2] + bytes(20_000) + ending)
    shard(
        (inputs[0], images),
        tmp_path / "dataset",
        refuse_cross_split_duplicates=True,
        trust_images=True,
    )
    assert "duplicates" not in Manifest.read(tmp_path / "dataset").created_by


@pytest.mark.parametrize("kept", [{}, {"pictures": "0" * 32}])
def test_shards_of_older_versions_are_kept_but_not_taken_for_free_of_them(
    repeated, tmp_path: Path, kept: dict[str, str]
) -> None:
    output = tmp_path / "dataset"
    with pytest.raises(InputError):
        shard(repeated, output, refuse_cross_split_duplicates=True)
    for record in (output / "images").glob("*.json"):
        old = json.loads(record.read_text())
        del old["sha256"], old["picture_hashes"]
        record.write_text(json.dumps(old | kept))
    with pytest.raises(InputError, match=r"finished by 0\.1\.0 or 0\.2\.0"):
        shard(repeated, output, refuse_cross_split_duplicates=True)
    assert "continued" in shard(repeated, output)
    with pytest.raises(InputError, match="1 image in two splits"):
        shard(repeated, output, refuse_cross_split_duplicates=True)  # as its tars say


def test_images_that_came_later_are_counted_where_it_matters(
    inputs: Inputs, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(inputs[1], tmp_path / "jpegs"))
    train, test = image_ids(images, "train")[0], image_ids(images, "test")[0]
    (images / f"test/{test}.jpg").unlink()
    refused = {"refuse_cross_split_duplicates": True}
    shard((inputs[0], images), tmp_path / "dataset", **refused)
    shutil.copy(images / f"train/{train}.jpg", images / f"test/{test}.jpg")
    twins = f"such as {train} of train, which is {test} of test"
    for more in ({"retry_failed": True}, {}):
        with pytest.raises(InputError, match=f"1 image in two splits, {twins}"):
            shard((inputs[0], images), tmp_path / "dataset", **refused, **more)
    assert "nothing was done" in shard((inputs[0], images), tmp_path / "dataset")
    assert check(tmp_path / "dataset").intact


def test_a_twin_that_was_taken_down_is_refused_no_more(repeated, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    shard(repeated, output)
    twin = image_ids(repeated[1], "test")[1]
    remove(RemoveOptions(dataset=str(output), ids=(twin,)), backwards)
    assert Manifest.read(output).created_by["duplicates"] == "null"
    done = shard(repeated, output, refuse_cross_split_duplicates=True)
    assert "nothing was done" in done


def test_without_any_the_manifest_says_nothing(on_disk: Path) -> None:
    assert "duplicates" not in Manifest.read(on_disk).created_by
