"""Directories of images: both layouts, missing files, files that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sharding.errors import InputError
from sharding.sources.directory import DirectorySource
from sharding.sources.named import NamedSource
from sharding.sources.open import open_source
from sharding.sources.packed import PackedImages
from sharding.sources.shard import ShardSource
from sharding.storage.retry import LARGEST_IMAGE, MISSING, BadImage

ID = "0123456789abcdef"


def test_both_layouts_are_found_and_the_split_wins(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / f"{ID}.jpg").write_bytes(b"flat")
    source = open_source(str(tmp_path))
    with source.reader("train", [ID]) as read:
        assert bytes(read(ID)) == b"flat"
    assert source.name("train", ID) == f"{ID}.jpg"
    (tmp_path / f"train/{ID}.jpg").write_bytes(b"nested")
    source = open_source(str(tmp_path))
    with source.reader("train", [ID]) as read:
        assert bytes(read(ID)) == b"nested"
    with source.reader("test", [ID]) as read:
        assert bytes(read(ID)) == b"flat"
    assert source.name("train", ID) == f"train/{ID}.jpg"


def test_folders_of_other_names_are_looked_into(tmp_path: Path) -> None:
    other = "f" * 16
    for folder, name in (("train_0", ID), ("train_f", other), ("test", ID), ("more/deep", ID)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{name}.jpg").write_bytes(folder.encode())
    source = open_source(str(tmp_path))
    with source.reader("train", [ID, other]) as read:
        assert bytes(read(ID)) == b"train_0"
        assert bytes(read(other)) == b"train_f"
    assert source.name("train", other) == f"train_f/{other}.jpg"
    with source.reader("test", [ID]) as read:
        assert bytes(read(ID)) == b"test"


@pytest.mark.parametrize("folder", ["train/train_0", "train/data", "train/Apple", "OID/a/b/c", ""])
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("ending", [".jpg", ".JPG", ".jpeg", ".jfif", ".Jpg"])
def test_images_are_found_as_people_have_them(
    folder: str, upper: bool, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / folder / f"{ID.upper() if upper else ID}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    (path.parent / f"{'0' * 16}.jpg").write_bytes(b"0")
    (path.parent / "latest").symlink_to("latest")
    source = open_source(str(tmp_path))
    with source.reader("train", [ID]) as read:
        assert bytes(read(ID)) == b"x"
        assert bytes(read("0" * 16)) == b"0"
    assert source.name("train", ID) == path.relative_to(tmp_path).as_posix()
    with source.reader("test", [ID]) as read:
        if folder.startswith("train"):
            with pytest.raises(BadImage, match=MISSING):
                read(ID)
        else:
            assert bytes(read(ID)) == b"x"


@pytest.mark.parametrize(
    "name", [f"._{ID}.jpg", f".cache/{ID}.jpg", f"__MACOSX/{ID}.jpg", f"a/b/c/d/e/{ID}.jpg"]
)
def test_what_is_no_image_of_the_collection_is_passed_over(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"holds no image: looked for <id>\.jpg, there and up to 4"
    ):
        open_source(str(tmp_path))


def test_a_linked_folder_counts_once_for_each_split(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / f"train/{ID}.jpg").write_bytes(b"x")
    (tmp_path / "validation").symlink_to("train")
    for number in range(5):
        (tmp_path / f"self{number}").symlink_to(tmp_path)
    source = DirectorySource.open(tmp_path)
    assert list(source.folders) == ["train", "validation"]
    with source.reader("validation", [ID]) as read:
        assert bytes(read(ID)) == b"x"


def test_ids_in_mixed_case_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "0123456789abcdEF.JPG").write_bytes(b"x")
    with pytest.raises(InputError, match="holds no image"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["list.txt", f"{ID}.jpg"])
def test_a_file_that_is_no_archive_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0" * 300)
    with pytest.raises(InputError, match="is no folder or archive"):
        open_source(str(tmp_path / name))


def test_the_buffer_grows_and_is_reused(tmp_path: Path) -> None:
    sizes = (10, 3_000_000, 0, 20)
    for number, size in enumerate(sizes):
        (tmp_path / f"{number:016x}.jpg").write_bytes(os.urandom(size))
    with DirectorySource.open(tmp_path).reader("train", []) as read:
        for number in range(len(sizes)):
            name = f"{number:016x}"
            assert bytes(read(name)) == (tmp_path / f"{name}.jpg").read_bytes()


def test_no_room_is_made_for_what_cannot_be_an_image(tmp_path: Path) -> None:
    size = 8 << 40
    path = tmp_path / f"{ID}.jpg"
    path.touch()
    try:
        os.truncate(path, size)
    except OSError:  # more than this file system can count
        os.truncate(path, size := LARGEST_IMAGE + 1)
    (tmp_path / f"{ID}.idx").write_text(f"v1.2 1\njpg 0 {size} {ID}.jpg\n")
    packed = PackedImages.of(str(path), "all.tar", [(int(ID, 16), 0, size)])
    named = NamedSource(directory=str(tmp_path), names={ID: path.name})
    in_a_tar = ShardSource(tar=str(path.rename(path.with_suffix(".tar"))))
    path.symlink_to(in_a_tar.tar)
    for source in (DirectorySource.open(tmp_path), packed, named, in_a_tar):
        with (
            source.reader("train", [ID]) as read,
            pytest.raises(BadImage, match=f"more than {LARGEST_IMAGE:,} bytes"),
        ):
            read(ID)


def test_a_name_is_found_in_another_case_or_unicode_form(tmp_path: Path) -> None:
    for name in ("Photos/CAFE\u0301 1.JPG", "Photos/a.jpg", "Photos/A.jpg", "Photos/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    wanted = ("photos/caf\u00e9 1.jpg", "Photos/a.jpg", "Photos/B.jpg", "photos/A.JPG", "Photos/c")
    names = {f"{number:016x}": name for number, name in enumerate(wanted)}
    with NamedSource(directory=str(tmp_path), names=names).reader("train", list(names)) as read:
        found = [bytes(read(image_id)).decode() for image_id in list(names)[:3]]
        assert found == ["Photos/CAFE\u0301 1.JPG", "Photos/a.jpg", "Photos/b.jpg"]
        for unknown in (*list(names)[3:], "f" * 16):  # of two that differ in case alone, or none
            with pytest.raises(BadImage, match=MISSING):
                read(unknown)


def test_what_cannot_be_read_is_a_bad_image(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    (tmp_path / f"{ID}.jpg").mkdir()
    with DirectorySource.open(tmp_path).reader("train", []) as read:
        with pytest.raises(BadImage, match=MISSING):
            read("f" * 16)
        with pytest.raises(BadImage, match="cannot be read: Is a directory"):
            read(ID)
    (tmp_path / f"{ID}.jpg").rmdir()
    os.mkfifo(tmp_path / f"{ID}.jpg")
    with DirectorySource.open(tmp_path).reader("train", []) as read:
        assert bytes(read(ID)) == b""  # without a wait for somebody who writes into it


@pytest.mark.parametrize("make", [False, True])
def test_a_wrong_directory_is_one_line(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "images"
    if make:
        folder.mkdir()
    with pytest.raises(InputError, match=r"holds no image|image directory is missing"):
        open_source(str(folder))
