"""One shard: complete or absent, the same every time, honest about what is not in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.labels import LabelTable
from sharding.openimages.rotations import Rotations
from sharding.shards.plan import ShardPlan
from sharding.shards.task import ShardTask, describe_repeated, finished
from sharding.shards.transcode import ImagePolicy
from sharding.shards.writer import write_shard
from sharding.sources.directory import DirectorySource
from sharding.storage.locks import ScratchFull
from sharding.storage.object_store import ObjectStore
from tests.support.photos import broken_images, encode, photo, tree
from tests.support.rooms import little_room

IDS = [f"{number:016x}" for number in range(6)]


@pytest.fixture
def task(tmp_path: Path) -> ShardTask:
    images = tmp_path / "jpegs/train"
    images.mkdir(parents=True)
    for number, image_id in enumerate(IDS):
        (images / f"{image_id}.jpg").write_bytes(encode(photo(60, 40, seed=number)))
    plan = ShardPlan(split="train", number=3, image_ids_N=parse_image_ids(IDS))
    # The split's table lists one image more, in another order.
    ids = ["f" * 16, *reversed(IDS)]
    labels = LabelTable.from_lists(
        ids, [[7], [], [0], [], [4, 2], [], [1]], [[], [], [], [], [], [3], [0]]
    )
    source = DirectorySource.open(tmp_path / "jpegs")
    return ShardTask.of(plan, labels, source, ImagePolicy(), tmp_path / "out")


def jpeg(task: ShardTask, image_id: str) -> Path:
    assert isinstance(task.source, DirectorySource)
    return Path(task.source.directory) / "train" / f"{image_id}.jpg"


def test_a_shard_holds_images_and_labels_in_id_order(task: ShardTask) -> None:
    outcome = write_shard(task)
    with tarfile.open(task.tar) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    assert list(members) == [f"{i}.{kind}" for i in IDS for kind in ("jpg", "json")]
    assert members[f"{IDS[0]}.jpg"] == jpeg(task, IDS[0]).read_bytes()
    assert json.loads(members[f"{IDS[2]}.json"]) == {
        "image_id": IDS[2],
        "negatives": [],
        "positives": [2, 4],
    }
    assert outcome.shard is not None
    assert outcome.shard.path == "images/train-000003.tar"
    assert outcome.shard.images == 6
    assert outcome.shard.bytes == task.tar.stat().st_size
    assert outcome.shard.sha256 == hashlib.sha256(task.tar.read_bytes()).hexdigest()
    index = task.tar.with_suffix(".idx").read_bytes()
    assert outcome.shard.index_sha256 == hashlib.sha256(index).hexdigest()
    assert finished(task) == outcome


def test_turns_known_from_the_dump_are_those_of_the_images(task: ShardTask) -> None:
    rotations = Rotations(
        image_ids_N=parse_image_ids([IDS[2], IDS[4], "f" * 16]),
        degrees_N=np.array([90, 0, 180], np.int16),
    )
    turned = ShardTask.of(
        task.plan, task.labels, task.source, task.policy, Path(task.output), rotations=rotations
    )
    assert turned.degrees_N.tolist() == [-1, -1, 90, -1, 0, -1]
    assert turned.fingerprint != task.fingerprint
    assert write_shard(turned).how == {"kept": 5, "turned": 1}


def test_bad_and_missing_images_are_reported_and_left_out(task: ShardTask) -> None:
    jpeg(task, IDS[1]).write_bytes(broken_images()["half"])
    jpeg(task, IDS[4]).unlink()
    outcome = write_shard(task)
    assert [(f.image_id, f.source, f.reason.split(":")[0]) for f in outcome.failures] == [
        (IDS[1], f"train/{IDS[1]}.jpg", "damaged JPEG"),
        (IDS[4], f"{IDS[4]}.jpg", "missing"),
    ]
    assert outcome.shard is not None
    assert outcome.shard.images == 4
    assert outcome.how == {"kept": 4}


def test_credentials_of_a_source_are_not_recorded(task: ShardTask) -> None:
    class Signed(DirectorySource):
        def name(self, split: str, image_id: str) -> str:
            return f"https://me:secret@host/{image_id}.jpg?X-Amz-Signature=secret"

    jpeg(task, IDS[1]).unlink()
    write_shard(dataclasses.replace(task, source=Signed(**vars(task.source))))
    assert "https://me:***@host" in task.record.read_text()
    assert "secret" not in task.record.read_text()


def test_a_strict_task_names_the_first_bad_image(task: ShardTask) -> None:
    jpeg(task, IDS[1]).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{IDS[1]}\.jpg: .*empty file"):
        write_shard(dataclasses.replace(task, strict=True))
    assert not list(task.tar.parent.iterdir())


def test_a_shard_without_any_image_is_a_record_without_tar(task: ShardTask) -> None:
    for image_id in IDS:
        jpeg(task, image_id).unlink()
    outcome = write_shard(task)
    assert outcome.shard is None
    assert len(outcome.failures) == 6
    assert [path.name for path in task.tar.parent.iterdir()] == ["train-000003.json"]
    assert finished(task) == outcome


def test_equal_tasks_write_equal_bytes(task: ShardTask, tmp_path: Path) -> None:
    write_shard(task)
    other = dataclasses.replace(task, output=str(tmp_path / "elsewhere"))
    write_shard(other)
    assert tree(tmp_path / "out") == tree(tmp_path / "elsewhere")


@pytest.mark.parametrize("change", ["labels", "policy", "images", "turns"])
def test_another_task_is_not_finished(task: ShardTask, change: str) -> None:
    write_shard(task)
    other = {
        "labels": {"labels": LabelTable.from_lists(IDS, [[1]] * 6, [[]] * 6)},
        "policy": {"policy": ImagePolicy(shorter_side=32)},
        "images": {"plan": dataclasses.replace(task.plan, image_ids_N=task.plan.image_ids_N[1:])},
        "turns": {"degrees_N": np.full(6, 90, np.int16)},
    }[change]
    assert finished(dataclasses.replace(task, **other)) is None


@pytest.mark.parametrize("damage", ["tar gone", "tar cut", "index gone", "record cut"])
def test_a_damaged_shard_is_not_finished(task: ShardTask, damage: str) -> None:
    write_shard(task)
    if damage == "tar cut":
        task.tar.write_bytes(task.tar.read_bytes()[:-1])
    elif damage == "record cut":
        record = task.tar.with_suffix(".json")
        record.write_text(record.read_text()[:50])
    else:
        task.tar.with_suffix(".tar" if damage == "tar gone" else ".idx").unlink()
    assert finished(task) is None


def test_no_flipped_bit_of_a_record_is_believed(task: ShardTask) -> None:
    jpeg(task, IDS[1]).unlink()
    outcome, record = write_shard(task), task.record.read_bytes()
    for bit in range(0, 8 * len(record), 7):
        content = bytearray(record)
        content[bit // 8] ^= 1 << bit % 8
        task.record.write_bytes(content)
        assert finished(task) in (None, outcome), f"bit {bit}"


@pytest.mark.parametrize(
    ("changes", "counts"),
    [({}, True), ({"images": 5}, False), ({"split": "test"}, False), ({"bytes": True}, False)],
)
def test_a_record_without_hash_counts_if_it_fits_the_plan(
    task: ShardTask, changes: dict[str, object], counts: bool
) -> None:
    outcome = write_shard(task)  # 0.1.0 wrote the record without a hash
    record = {key: value for key, value in outcome.to_json().items() if key != "sha256"}
    record["shard"].update(changes)
    task.record.write_text(json.dumps(record))
    assert finished(task) == (outcome if counts else None)


def test_a_full_disk_is_one_line_and_leaves_nothing(task: ShardTask) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match=r"train-000003\.tar: cannot be written .*free some"):
            write_shard(task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(task.tar.parent.iterdir())
    assert write_shard(task).shard is not None


def test_pictures_under_many_ids_are_counted(task: ShardTask) -> None:
    placeholder = jpeg(task, IDS[0]).read_bytes()
    for image_id in IDS[1:3]:
        jpeg(task, image_id).write_bytes(placeholder)
    outcome = write_shard(task)
    assert list(outcome.repeated.values()) == [3]
    assert finished(task) == outcome
    assert describe_repeated([outcome]) == ""
    test = dataclasses.replace(outcome, name="test-000000")
    output = "6 images are the same picture, in test, train"
    assert describe_repeated([outcome, test]) == output


def test_only_pictures_readable_in_both_tars_count_as_changed(task: ShardTask) -> None:
    shard = write_shard(task).shard
    assert shard is not None
    whole = task.tar.read_bytes()
    again = dataclasses.replace(task, replaces=shard.sha256)
    jpeg(task, IDS[0]).write_bytes(jpeg(task, IDS[1]).read_bytes())
    with pytest.raises(InputError, match=f"1 pictures are not those in it, such as {IDS[0]}.jpg"):
        write_shard(again)
    task.tar.write_bytes(b"damaged" + whole[7:])
    with pytest.raises(InputError, match="not known: the old one cannot be read to its end"):
        write_shard(again)


def test_a_full_disk_of_the_worker_is_not_the_buckets(task: ShardTask, tmp_path: Path) -> None:
    task = dataclasses.replace(task, bucket=ObjectStore.local(tmp_path / "bucket"))
    told = pytest.raises(ScratchFull, match=r"the disk of this machine is full.*TMPDIR")
    with told, little_room(2048):
        write_shard(task)
