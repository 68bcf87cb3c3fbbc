import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from sharding.commands.options import ReshardOptions, ShardOptions, VerifyOptions
from sharding.commands.prepare import prepare
from sharding.commands.reshard import reshard
from sharding.commands.shard import shard_dump
from sharding.commands.verify import verify
from sharding.errors import InputError
from sharding.openimages.dump_files import DumpFile
from sharding.openimages.image_lists import read_listed
from sharding.openimages.rotations import read_rotations
from sharding.storage.tar_index import read_index
from tests.support.photos import image_ids, tree, write_photo_dump

COLUMNS = "ImageID,Subset,OriginalURL,Title,Rotation"


def written(tmp_path, *rows: str, header: str = COLUMNS) -> DumpFile:
    path = tmp_path / "images-with-rotation.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return DumpFile(path=path, location=f"x/{path.name}")


def test_rotations_are_found_by_id_in_a_list_that_is_not_sorted(tmp_path):
    file = written(
        tmp_path,
        "4fa8000000000000,train,u,one,90.0",
        '00000000000123e5,train,u,"a, b\nand ""c""",0.0',
        "7e85000000000000,train,u,two,",
        "0000000000000001,train,u,three,270",
        "4fa8000000000000,train,u,again,180.0",
    )
    rotations = read_rotations([file])
    wanted = np.array([0x4FA8 << 48, 0x123E5, 0x7E85 << 48, 1, 2], np.uint64)
    assert rotations.of(wanted).tolist() == [90, 0, -1, 270, -1]


def test_no_list_knows_no_rotation():
    assert read_rotations([]).of(np.array([1], np.uint64)).tolist() == [-1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("4fa8000000000000,train,u,t,45.0", "'45.0' is no quarter turn"),
        ("4fa8,train,u,t,90.0", "'4fa8' is not 16"),
        ("4fa8000000000000,train", "not an image list"),
    ],
)
def test_a_bad_list_is_one_line_that_names_it(tmp_path, row, message):
    file = written(tmp_path, row)
    with pytest.raises(InputError, match=message) as caught:
        read_rotations([file])
    assert str(file.path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_v3_lists_have_no_rotation_but_their_other_columns_are_read(shared):
    path = shared / "data/openimages/v3_2017_11/2017_11/train/images.csv"
    file = DumpFile(path=path, location="train/images.csv")
    with pytest.raises(InputError, match="Rotation"):
        read_rotations([file])
    batches = [batch for _, batch in read_listed(file, ["OriginalMD5"])]
    assert sum(len(batch) for batch in batches) == 1000
    assert all(len(md5.as_py()) == 24 for batch in batches for md5 in batch.column("OriginalMD5"))


def test_a_dataset_is_turned_upright_and_stays_so_when_mended(tmp_path):
    dump, images = write_photo_dump(tmp_path / "in")
    turned, late, *_ = image_ids(images, "train")
    lists = tmp_path / "2018_04"
    lists.mkdir()
    rows = [f"{turned},train,u,t,90.0", f"{late},train,u,t,270.0", f"{'e' * 16},train,u,t,0.0"]
    text = "\n".join([COLUMNS, *rows]) + "\n"
    (lists / "train-images-with-labels-with-rotation.csv").write_text(text)
    (lists / "unrelated.csv").write_text("a,b\n1,2\n")
    later = (images / f"train/{late}.jpg").rename(tmp_path / "late.jpg")
    options = ShardOptions(
        annotations=dump, images=str(images), output=tmp_path / "out", rotations=lists
    )
    shard_dump(prepare(options), map)
    assert decoded(tmp_path / "out", turned) == (96, 96)
    original = np.asarray(Image.open(images / f"train/{turned}.jpg"), np.int16)
    content = np.asarray(Image.open(io.BytesIO(jpeg(tmp_path / "out", turned))), np.int16)
    assert np.abs(content - np.rot90(original)).mean() < 4

    later.rename(images / f"train/{late}.jpg")
    shard_dump(prepare(dataclasses.replace(options, retry_failed=True)), map)
    original = np.asarray(Image.open(images / f"train/{late}.jpg"), np.int16)
    content = np.asarray(Image.open(io.BytesIO(jpeg(tmp_path / "out", late))), np.int16)
    assert np.abs(content - np.rot90(original, 3)).mean() < 4

    before = tree(tmp_path / "out")
    for tar in (tmp_path / "out/images").glob("train-*.tar"):
        tar.unlink()
    mend = VerifyOptions(dataset=tmp_path / "out", repair=True, images=str(images))
    assert verify(mend, map).intact
    assert tree(tmp_path / "out") == before


def without_the_table(path):
    path.unlink()


def with_a_byte_flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [without_the_table, with_a_byte_flipped])
def test_no_image_is_written_unturned_for_want_of_the_table(tmp_path, damage):
    dump, images = write_photo_dump(tmp_path / "in")
    turned = image_ids(images, "train")[0]
    listed = written(tmp_path, f"{turned},train,u,t,90.0").path
    out = tmp_path / "out"
    options = ShardOptions(annotations=dump, images=str(images), output=out, rotations=listed)
    there = images / f"test/{image_ids(images, 'test')[0]}.jpg"
    late = there.rename(tmp_path / "late.jpg")
    shard_dump(prepare(options), map)
    before = tree(out)
    damage(out / "rotations.parquet")
    (problem,) = verify(VerifyOptions(dataset=out), map).remaining
    assert problem.path == "rotations.parquet"
    assert "repeat the command that made the dataset" in problem.fix

    lost = min((out / "images").glob("train-*.tar"))
    content = lost.read_bytes()
    lost.unlink()
    damaged = tree(out)
    late.rename(there)
    mend = VerifyOptions(dataset=out, repair=True, images=str(images))
    more = ReshardOptions(dataset=out, annotations=dump, name="2017_11", images=str(images))
    for job in (lambda: verify(mend, map), lambda: reshard(more, map)):
        with pytest.raises(InputError, match=r"rotations\.parquet.*repeat the command that made"):
            job()
    assert tree(out) == damaged
    lost.write_bytes(content)
    shard_dump(prepare(options), map)
    assert tree(out) == before


def test_rotations_are_part_of_what_a_dataset_is(tmp_path):
    dump, images = write_photo_dump(tmp_path / "in")
    file = written(tmp_path, f"{image_ids(images, 'train')[0]},train,u,t,90.0")
    options = ShardOptions(annotations=dump, images=str(images), output=tmp_path / "out")
    shard_dump(prepare(options), map)
    with pytest.raises(InputError, match="finished dataset of other labels or options"):
        shard_dump(prepare(dataclasses.replace(options, rotations=file.path)), map)
    with pytest.raises(InputError, match="no image list with rotations"):
        prepare(dataclasses.replace(options, rotations=images))


def jpeg(dataset, image_id: str) -> bytes:
    for tar in sorted((dataset / "images").glob("train-*.tar")):
        index = read_index(tar.with_suffix(".idx"))
        if image_id in index:
            offset, size = index[image_id]["jpg"]
            return tar.read_bytes()[offset : offset + size]
    raise AssertionError(f"{image_id} is in no tar")


def decoded(dataset, image_id: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(jpeg(dataset, image_id))).size
