"""Datasets from a URL: copied once, checked, refreshed when labels are new, within a bound."""

from __future__ import annotations

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.data.staging import Cache, open_dataset
from sharding.commands.confidences import reshard_confidences
from sharding.commands.options import RemoveOptions, ReshardOptions
from sharding.commands.remove import remove
from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import format_image_ids
from sharding.layout import CLASSES_HASH, SPLITS
from sharding.manifest import Dataset, Manifest, ShardRecord
from sharding.storage.locks import ScratchFull
from tests.support.machine import write_csv
from tests.support.rooms import little_room


@pytest.fixture
def remote(squares: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(squares, tmp_path / "bucket" / "squares"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(directory=tmp_path / "cache", most_bytes=10**9)


def tars(dataset: Dataset) -> list[Path]:
    return [dataset.directory / shard.path for shard in dataset.manifest.shards]


def test_a_directory_is_opened_where_it_is(squares: Path, cache: Cache) -> None:
    assert open_dataset(str(squares), cache).directory == squares
    assert not cache.directory.exists()


def test_a_url_is_copied_whole_and_once(
    remote: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(remote.as_uri(), cache)
    assert dataset.digest == Dataset.open(remote).digest
    for path in tars(dataset):
        assert path.read_bytes() == (remote / "images" / path.name).read_bytes()
        assert path.with_suffix(".idx").exists()
    assert len(dataset.labels("train").image_ids_N) == 96

    def refuse(location: str) -> None:
        raise AssertionError(f"copied again: {location}")

    monkeypatch.setattr(storage, "stream", refuse)
    assert open_dataset(remote.as_uri(), cache).directory == dataset.directory


def test_the_driver_copies_no_images(remote: Path, cache: Cache) -> None:
    dataset = open_dataset(remote.as_uri(), cache, tars=False)
    assert len(dataset.labels("train").image_ids_N) == 96
    assert not any(path.exists() for path in tars(dataset))


def test_images_are_copied_of_the_splits_that_are_read(remote: Path, tmp_path: Path) -> None:
    def of(*splits: str) -> list[ShardRecord]:
        return [shard for shard in Dataset.open(remote).manifest.shards if shard.split in splits]

    def copied(dataset: Dataset) -> list[ShardRecord]:
        places = ((s, dataset.directory / s.path, dataset.directory / s.index) for s in of(*SPLITS))
        return [shard for shard, tar, index in places if tar.exists() and index.exists()]

    room = sum(shard.bytes for shard in of("test", "validation"))
    cache = Cache(directory=tmp_path / "cache", most_bytes=room)
    assert copied(open_dataset(remote.as_uri(), cache, tars=["test"])) == of("test") != []
    with pytest.raises(InputError, match="--cache-gb"):
        open_dataset(remote.as_uri(), cache)
    cache = dataclasses.replace(cache, most_bytes=10**9)
    both = ["train", "test"]
    assert copied(open_dataset(remote.as_uri(), cache, tars=both)) == of(*both)
    assert copied(open_dataset(remote.as_uri(), cache)) == of(*SPLITS)


def test_workers_of_a_node_share_one_copy(
    remote: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    stream = storage.stream
    monkeypatch.setattr(storage, "stream", lambda url: copied.append(url) or stream(url))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_dataset(remote.as_uri(), cache), range(4)))
    assert len({dataset.directory for dataset in found}) == 1
    assert len(copied) == len(set(copied)) > 0


def test_a_copy_that_is_not_the_manifests_is_refused(remote: Path, cache: Cache) -> None:
    tar = next((remote / "images").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=rf"{tar.name}.*hash.*verify"):
        open_dataset(remote.as_uri(), cache)
    assert not (next(cache.directory.glob("*/")) / "images" / tar.name).exists()


def test_classes_that_are_not_the_manifests_are_refused(squares: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(squares, tmp_path / "dataset")
    manifest, classes = Manifest.read(dataset), Dataset.open(dataset).classes
    digest = classes.write(dataset / "classes.parquet")
    manifest.with_provenance(**{CLASSES_HASH: digest}).write(dataset)
    assert len(open_dataset(str(dataset)).classes) == 8
    groups_K = classes.groups_K[::-1]
    dataclasses.replace(classes, groups_K=groups_K).write(dataset / "classes.parquet")
    with pytest.raises(InputError, match=r"classes\.parquet: its content has changed"):
        open_dataset(str(dataset))


def test_new_labels_cost_their_own_bytes(
    remote: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_dataset(remote.as_uri(), cache)
    manifest = json.loads((remote / "dataset.json").read_text())
    del manifest["sha256"]  # 0.1.0 wrote none
    (version,) = manifest["labels"].values()
    copy = json.loads(json.dumps(version))
    for file in copy["splits"].values():
        new = file["path"].replace("labels/first/", "labels/new/")
        (remote / new).parent.mkdir(exist_ok=True)
        shutil.copy(remote / file["path"], remote / new)
        file["path"] = new
    manifest["labels"]["new"] = copy
    (remote / "dataset.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(storage, "stream", _only_labels(storage.stream))
    assert len(open_dataset(remote.as_uri(), cache).labels("train", "new").image_ids_N) == 96


def test_labels_of_images_without_pixels_stay_where_they_are(remote: Path, cache: Cache) -> None:
    manifest = json.loads((remote / "dataset.json").read_text())
    del manifest["sha256"]  # 0.1.0 wrote none
    (version,) = manifest["labels"].values()
    train = version["splits"]["train"]
    apart = train["path"].replace(".parquet", ".without_pixels.parquet")
    train["without_pixels"] = {**train, "path": apart}
    (remote / "dataset.json").write_text(json.dumps(manifest))
    shutil.copy(remote / train["path"], remote / apart)
    dataset = open_dataset(remote.as_uri(), cache)
    assert dataset.digest == Dataset.open(remote).digest
    assert len(dataset.labels("train")) == 96
    assert not (dataset.directory / apart).exists()


def _only_labels(stream):  # type: ignore[no-untyped-def]
    def checked(location: str):  # type: ignore[no-untyped-def]
        assert "/labels/new/" in location
        return stream(location)

    return checked


def test_the_bound_counts_all_that_is_there(remote: Path, tmp_path: Path) -> None:
    size = sum(shard.bytes for shard in Dataset.open(remote).manifest.shards)
    cache = Cache(directory=tmp_path / "cache", most_bytes=int(1.9 * size))
    other = Path(shutil.copytree(remote, tmp_path / "bucket" / "other")).as_uri()
    reading = open_dataset(remote.as_uri(), cache)
    with pytest.raises(InputError, match=r"GB of images to copy to .*cache.*--cache-gb"):
        open_dataset(other, cache)
    open_dataset(other, cache, tars=False)
    assert all(path.exists() for path in tars(reading)), "nothing is taken from its readers"
    shutil.rmtree(reading.directory)
    open_dataset(other, cache)


def test_a_dataset_larger_than_the_cache_is_refused(remote: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--cache-gb"):
        open_dataset(remote.as_uri(), Cache(directory=tmp_path / "cache", most_bytes=1000))


def test_half_copies_are_removed_and_missing_tars_copied(remote: Path, cache: Cache) -> None:
    first, *rest = tars(open_dataset(remote.as_uri(), cache))
    half = first.with_name(f"{first.name}.tmp.0123abcd")
    half.write_bytes(b"half")
    first.unlink()
    open_dataset(remote.as_uri(), cache)
    assert not half.exists()
    assert all(path.exists() for path in (first, *rest))


@pytest.mark.parametrize("what", ["tar", "index", "labels"])
def test_a_copy_that_was_damaged_is_copied_again(remote: Path, cache: Cache, what: str) -> None:
    dataset = open_dataset(remote.as_uri(), cache)
    shard = dataset.manifest.shards[0]
    labels = dataset.manifest.labels["first"].splits["train"].path
    path = {"tar": shard.path, "index": shard.index, "labels": labels}[what]
    copy = dataset.directory / path
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1] if what == "tar" else bytes(len(whole)))
    open_dataset(remote.as_uri(), cache)
    assert copy.read_bytes() == whole


def test_a_url_without_a_dataset_is_one_error(tmp_path: Path, cache: Cache) -> None:
    with pytest.raises(InputError, match="manifest cannot be read"):
        open_dataset((tmp_path / "nothing").as_uri(), cache)


def test_a_cache_loses_images_that_were_taken_down(remote: Path, cache: Cache) -> None:
    Quarantine().write(remote / "quarantine.parquet")
    before = open_dataset(remote.as_uri(), cache)
    first = before.shards("train")[0]
    (gone,) = format_image_ids(before.labels("train").image_ids_N[:1])
    remove(RemoveOptions(dataset=str(remote), ids=(gone,)), map)
    after = open_dataset(remote.as_uri(), cache)
    assert not (after.directory / first.path).exists()
    assert {path.name for path in (after.directory / "images").glob("*.tar")} == {
        path.name for path in tars(after)
    }
    assert after.shards_digest("train") != before.shards_digest("train")
    assert after.shards_digest("test") == before.shards_digest("test")


def test_confidences_are_copied_where_they_are_asked_for(
    remote: Path, cache: Cache, tmp_path: Path
) -> None:
    """They may be larger than all labels together."""
    opened = Dataset.open(remote)
    first = format_image_ids(opened.labels("train").image_ids_N[:1])[0]
    table = write_csv(tmp_path / "machine.csv", [(first, opened.classes.mids[0], 0.5)])
    reshard_confidences(ReshardOptions(dataset=str(remote), confidences=table))
    path = "confidences/machine/train.parquet"
    assert not (open_dataset(remote.as_uri(), cache, tars=False).directory / path).exists()
    copy = open_dataset(remote.as_uri(), cache, tars=False, confidences="machine").directory
    assert (copy / path).read_bytes() == (remote / path).read_bytes()
    for location in (remote.as_uri(), str(remote)):
        with pytest.raises(InputError, match="no confidences 'clip'"):
            open_dataset(location, cache, tars=False, confidences="clip")


def test_a_full_disk_of_the_cache_is_told_as_such(remote: Path, cache: Cache) -> None:
    wanted = rf"^{cache.directory}: the disk of this machine is full.*--cache"
    with pytest.raises(ScratchFull, match=wanted), little_room(2048):
        open_dataset(remote.as_uri(), cache)
    assert len(open_dataset(remote.as_uri(), cache).labels("train")) == 96
