"""Tar archives as a source: the same dataset as from their files, over kills and damage."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.layout import STAGING_FOLDER
from sharding.sources.archives import ArchiveSource, StagingTask, names_archives, stage
from sharding.sources.open import open_source
from sharding.sources.packed import PackedImages
from sharding.storage.object_store import ObjectStore
from sharding.storage.retry import BadImage, RetryPolicy
from tests.support import commands
from tests.support.killing import run_until
from tests.support.photos import image_ids, tree
from tests.support.servers import FAST, serving

shard = partial(commands.shard, fetch=FAST)


def pack(images: Path, folder: Path, suffix: str, form: int = tarfile.GNU_FORMAT) -> Path:
    """Archives as the mirror has them: training images by the first digit of their id."""
    folder.mkdir()
    mode = {".tar": "w", ".tar.gz": "w:gz"}[suffix]
    for split in sorted(images.iterdir()):
        groups: dict[str, list[Path]] = {}
        for path in sorted(split.iterdir()):
            name = f"train_{path.stem[0]}" if split.name == "train" else split.name
            groups.setdefault(name, []).append(path)
        for name, paths in groups.items():
            with tarfile.open(folder / f"{name}{suffix}", mode, format=form) as archive:
                archive.add(split, arcname=name, recursive=False)
                for path in paths:
                    archive.add(path, arcname=f"{name}/{path.name}")
                archive.add(paths[0], arcname=f"{name}/{'0' * 15}1.jpg")  # nobody asked for it
    return folder


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_archives_give_the_same_bytes_as_their_files(
    inputs, from_directory, tmp_path, suffix
) -> None:
    folder = pack(inputs[1], tmp_path / "packed", suffix)
    shard((inputs[0], str(folder)), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory
    shard((inputs[0], f"{folder}/*{suffix}"), tmp_path / "globbed")
    assert tree(tmp_path / "globbed") == from_directory


def test_an_archive_that_exists_is_read_though_its_name_is_a_glob_of_another(tmp_path) -> None:
    folder = tmp_path / "mine [2]"
    folder.mkdir()
    for name in ("pics[ab].tar", "picsa.tar", "pics [1].tar"):
        (folder / name).write_bytes(b"")

    def found(name: str) -> list[str]:
        return [Path(path).name for path in ArchiveSource.open(f"{folder}/{name}", FAST).archives]

    assert found("pics[ab].tar") == ["pics[ab].tar"]
    assert found("pics [1].tar") == ["pics [1].tar"]
    assert found("pics[ac].tar") == ["picsa.tar"]
    assert found("pics*.tar") == ["pics [1].tar", "pics[ab].tar", "picsa.tar"]


def test_archives_of_a_web_server_are_streamed_over_failures(
    inputs, from_directory, tmp_path
) -> None:
    members = io.BytesIO()
    with tarfile.open(fileobj=members, mode="w:gz") as archive:
        for path in sorted(inputs[1].rglob("*.jpg")):
            archive.add(path, arcname=path.name)
    with serving({"all.tar.gz": members.getvalue()}) as web:
        web.faults = {"all.tar.gz": ["short", 500]}
        shard((inputs[0], f"{web.url}/all.tar.gz"), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory


def test_an_archive_may_have_a_signed_url(inputs, tmp_path: Path) -> None:
    packed = next(pack(inputs[1], tmp_path / "packed", ".tar").glob("*.tar"))
    with serving({"train.tar?X-Amz-Signature=1": packed.read_bytes()}) as web:
        web.lacks = "HEAD for signatures"
        url = f"{web.url}/train.tar?X-Amz-Signature=1"
        assert names_archives(url)
        stream, length = ObjectStore(url=url, policy=FAST).open()
        assert (stream.read(), length) == (packed.read_bytes(), packed.stat().st_size)


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        ("HEAD", "does not tell its size"),
        ("Content-Length", "does not tell its size"),
        ("Range", "sends no parts of files"),
    ],
)
def test_a_server_too_simple_to_stream_from_is_told_apart_from_damage(lacks, reason, tmp_path):
    with serving({"all.tar.gz": b"x" * 100}) as web:
        web.lacks = lacks
        task = StagingTask(
            archive=f"{web.url}/all.tar.gz",
            folder=str(tmp_path),
            wanted_N=np.zeros(1, np.uint64),
            policy=FAST,
        )
        with pytest.raises(InputError, match=rf"all.tar.gz: .*{reason}.*download the archive"):
            stage(task)


def test_killed_while_spooling_it_ends_in_the_same_bytes(inputs, from_directory, tmp_path) -> None:
    folder = pack(inputs[1], tmp_path / "packed", ".tar.gz")
    died, event, spooled = True, 4, 0
    while died:
        output = tmp_path / f"out-{event}"
        died = run_until(event, shard, (inputs[0], folder), output)
        before = {p.name: p.stat().st_mtime_ns for p in output.glob(f"{STAGING_FOLDER}/*.npz")}
        spooled += bool(before)
        shard((inputs[0], str(folder)), output)
        assert tree(output) == from_directory, f"killed at event {event}"
        event += 101
    assert spooled


def test_a_continued_job_reads_no_finished_archive_again(inputs, tmp_path, monkeypatch) -> None:
    folder = pack(inputs[1], tmp_path / "packed", ".tar.gz")
    wanted_N = np.sort(parse_image_ids(image_ids(inputs[1], "test")))
    task = StagingTask(
        archive=str(folder / "test.tar.gz"),
        folder=str(tmp_path / "spool"),
        wanted_N=wanted_N,
        policy=RetryPolicy(),
    )
    first = stage(task)
    assert np.array_equal(first.image_ids_N, wanted_N)
    monkeypatch.setattr(
        "sharding.sources.archives._spool", lambda *_: pytest.fail("streamed again")
    )
    assert np.array_equal(stage(task).places_N3, first.places_N3)


def test_what_no_archive_holds_is_missing_and_can_be_retried(inputs, tmp_path) -> None:
    folder = pack(inputs[1], tmp_path / "packed", ".tar.gz")
    (folder / "test.tar.gz").rename(tmp_path / "test.tar.gz")
    with pytest.raises(InputError, match=r"none of the 5 .* of test .*missing.*--allow-empty test"):
        shard((inputs[0], str(folder)), tmp_path / "out")
    shard((inputs[0], str(folder)), tmp_path / "out", allow_empty=("test",))
    entries = Quarantine.read(tmp_path / "out/quarantine.parquet").entries
    assert {(e.split, e.reason) for e in entries} == {("test", "missing")}
    assert len(entries) == 5
    late = str(tmp_path / "test.tar.gz")
    assert "set aside    nothing" in str(
        shard((inputs[0], late), tmp_path / "out", retry_failed=True)
    )
    assert not (tmp_path / "out" / STAGING_FOLDER).exists()


def test_archives_of_other_images_leave_the_output_free(inputs, from_directory, tmp_path) -> None:
    with tarfile.open(tmp_path / "others.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"{'f' * 16}.jpg"))
    with pytest.raises(InputError, match="none of the 35 labelled images"):
        shard((inputs[0], str(tmp_path / "others.tar.gz")), tmp_path / "out")
    shard((inputs[0], str(inputs[1])), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("damage", ["cut", "patched", "noise"])
def test_a_damaged_archive_is_one_line_and_the_job_can_go_on(
    inputs, from_directory, tmp_path, suffix, damage
) -> None:
    folder = pack(inputs[1], tmp_path / "packed", suffix)
    victim = folder / f"validation{suffix}"
    good = victim.read_bytes()
    middle = len(good) // 2 // 512 * 512
    bad = {
        "cut": good[: len(good) // 2],
        "patched": good[:middle] + bytes(range(256)) * 64 + good[middle + 16384 :],
        "noise": b"\x01" * 3000,
    }[damage]
    victim.write_bytes(bad)
    with pytest.raises(InputError, match=rf"validation{suffix}: the archive") as refused:
        shard((inputs[0], str(folder)), tmp_path / "out")
    assert "\n" not in str(refused.value)
    victim.write_bytes(good)
    shard((inputs[0], str(folder)), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory


def test_folders_of_images_beside_archives_are_refused(inputs, tmp_path) -> None:
    folder = pack(inputs[1], tmp_path / "packed", ".tar")
    (folder / "notes").mkdir()
    assert type(open_source(str(folder))).__name__ == "ArchiveSource"
    shutil.copytree(inputs[1] / "validation", folder / "validation")
    with pytest.raises(InputError, match=r"folders of images \(validation\) and archives \(test"):
        open_source(str(folder))
    for archive in folder.glob("*.tar"):
        archive.unlink()
    (folder / "classes.zip").write_bytes(b"PK\3\4")
    assert type(open_source(str(folder))).__name__ == "DirectorySource"


def staged(archive: Path, folder: Path, *ids: int) -> PackedImages:
    wanted_N = np.array(sorted(ids), np.uint64)
    task = StagingTask(
        archive=str(archive), folder=str(folder / "spool"), wanted_N=wanted_N, policy=FAST
    )
    return stage(task)


def found(packed: PackedImages, *ids: int) -> list[bytes | str]:
    """The content of each image, or the reason why there is none."""
    contents: list[bytes | str] = []
    with packed.reader("train", []) as read:
        for key in ids:
            try:
                contents.append(bytes(read(f"{key:016x}")))
            except BadImage as bad:
                contents.append(str(bad))
    return contents


def tar_of(path: Path, mode: str, *members: tuple[str, bytes, bytes | str]) -> Path:
    """Write an archive of (name, type, content or link target)."""
    with tarfile.open(path, mode) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(content, str):
                info.linkname, content = content, b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


FILE, HARD, SOFT = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_links_are_what_unpacking_makes_of_them(mode: str, tmp_path: Path) -> None:
    names = [f"{key:016x}.jpg" for key in range(10)]
    long = "a-folder-with-a-long-name/" * 6
    archive = tar_of(
        tmp_path / "images.bin",  # judged by its content
        mode,
        (f"a/{names[4]}", SOFT, "elsewhere/x"),  # of what comes later
        (f"a/{names[0]}", FILE, b"zero"),
        (f"./b/{names[1]}", HARD, f"a/{names[0]}"),
        (f"a/{names[0]}", FILE, b"again"),
        (f"b/{names[2]}", SOFT, f"../a/{names[0]}"),
        (f"b/{names[3]}", HARD, f"b/{names[1]}"),
        (f"b/{names[5]}", HARD, "b/later"),
        ("b/later", FILE, b"later"),
        ("a/elsewhere/x", FILE, b"there"),
        (f"b/{names[6]}", SOFT, "/data/x.jpg"),
        (f"{long}{names[7]}", SOFT, "../../gone"),
        (f"c/{names[8]}", FILE, b"eight"),
        (f"d/{names[9]}", SOFT, names[9]),
    )
    packed = staged(archive, tmp_path, *range(10))
    assert found(packed, 0, 1, 2, 3, 4, 8) == [
        *(b"again", b"zero", b"again", b"zero", b"there", b"eight")
    ]
    for reason, target in zip(
        found(packed, 5, 6, 7, 9), ("b/later", "/data/x.jpg", "../../gone", names[9]), strict=True
    ):
        assert reason == f"a link to no file of the archive: '{target}'"
    again = PackedImages.first_of([staged(archive, tmp_path, *range(10))]).only(["0" * 15 + "6"])
    assert found(again, 6) == ["a link to no file of the archive: '/data/x.jpg'"]


def test_joined_archives_are_read_to_the_last_and_the_last_mention_counts(tmp_path: Path) -> None:
    first = tar_of(
        tmp_path / "a", "w", (f"{1:016x}.jpg", FILE, b"one"), (f"{2:016x}.jpg", FILE, b"2")
    )
    last = tar_of(tmp_path / "b", "w", (f"x/{1:016X}.JPEG", FILE, b"new"))
    joined = tmp_path / "images.tar"
    joined.write_bytes(first.read_bytes() + last.read_bytes())
    assert found(staged(joined, tmp_path, 1, 2), 1, 2) == [b"new", b"2"]
    joined.write_bytes(first.read_bytes() + b"what is this" * 100 + last.read_bytes())
    with pytest.raises(InputError, match=r"images\.tar: the archive is damaged \(no tar header"):
        staged(joined, tmp_path, 1)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_zips_are_read(method: int, tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("README", "hello")
        archive.writestr(f"__MACOSX/._{1:016x}.jpg", b"apple")
        archive.writestr(f"train/{1:016x}.jpg", b"one" * 1000)
    assert found(staged(path, tmp_path, 1, 2), 1, 2) == [b"one" * 1000, "missing"]
    assert open_source(str(path)).name("train", f"{1:016x}") == f"{path}:{1:016x}.jpg"
    path.write_bytes(path.read_bytes().replace(b"one", b"two", 1)[:-30])
    with pytest.raises(InputError, match="the archive is damaged"):
        staged(path, tmp_path, 1)


def test_a_zip_of_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"train\\{1:016x}.jpg", b"one")
    assert found(staged(path, tmp_path, 1), 1) == [b"one"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_nothing_larger_than_an_image_is_spooled(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharding.sources.archive_listing.LARGEST_IMAGE", 10)
    names = [f"{key:016x}.jpg" for key in range(3)]
    archive = tar_of(
        tmp_path / "images.tar", mode, (names[0], FILE, b"x" * 11), (names[1], FILE, b"x" * 10)
    )
    packed = staged(archive, tmp_path, 0, 1)
    assert found(packed, 0, 1) == ["more than 10 bytes", b"x" * 10]


def test_a_damaged_bz2_is_damage(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    path = tar_of(tmp_path / "images.tar.bz2", "w:bz2", (f"{1:016x}.jpg", FILE, content))
    packed = path.read_bytes()
    path.write_bytes(packed.replace(packed[40:44], b"????"))
    with pytest.raises(InputError, match=r"the archive is damaged \(Invalid data stream"):
        staged(path, tmp_path, 1)


def test_dots_in_folders_and_files_beside_pictures_change_no_byte(
    inputs, from_directory, tmp_path
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    for split in sorted(inputs[1].iterdir()):
        with tarfile.open(folder / f"{split.name}.tar", "w") as archive:
            name = f"./crawl v2.0/{split.name}.v1"
            archive.add(split, arcname=name, recursive=False)
            for path in sorted(split.iterdir()):
                archive.add(path, arcname=f"{name}/{path.name}")
                archive.addfile(tarfile.TarInfo(f"{name}/{path.stem}.json"))
    shard((inputs[0], str(folder)), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory


def test_archives_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "images.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(InputError, match=r"zst: a zstd archive is not read\. Fix: unpack it"):
        staged(path, tmp_path, 1)
    assert names_archives(str(tmp_path))
    assert names_archives(f"{tmp_path}/*.tar.zst")
    assert ArchiveSource.open(str(tmp_path), FAST).archives == (str(path),)
    (tmp_path / "images.tar").touch()  # as unpacking it leaves both
    assert ArchiveSource.open(str(tmp_path), FAST).archives == (str(tmp_path / "images.tar"),)


def test_files_of_a_macs_disk_are_passed_over(inputs, from_directory, tmp_path) -> None:
    folder = pack(inputs[1], tmp_path / "packed", ".tar.gz")
    for name in ("._train_0.tar.gz", ".DS_Store", f"._{1:016x}.jpg"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    (folder / "README.txt").write_text("read me first")
    shard((inputs[0], str(folder)), tmp_path / "out")
    assert tree(tmp_path / "out") == from_directory


def test_a_directory_of_images_and_an_archive_is_a_directory(inputs, tmp_path) -> None:
    (tmp_path / f"{'a' * 16}.jpg").write_bytes(b"x")
    (tmp_path / "more.tar.gz").write_bytes(gzip.compress(b""))
    assert type(open_source(str(tmp_path))).__name__ == "DirectorySource"
    with pytest.raises(InputError, match="no archive is there"):
        open_source(str(tmp_path / "no*.tar"))
