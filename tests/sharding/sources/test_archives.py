"""Tar archives as a source: the same dataset as from their files, over kills and damage."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sharding.dataset.quarantine import Quarantine
from sharding.errors import InputError
from sharding.image_ids import parse_image_ids
from sharding.layout import STAGING_FOLDER
from sharding.sources.archives import StagingTask, stage
from sharding.sources.open import open_source
from sharding.storage.retry import RetryPolicy
from sharding.storage.tar_reader import read_members
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


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("packed", [False, True])
def test_members_are_those_that_tarfile_sees(form: int, packed: bool) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, size in (("a.jpg", 0), ("d/" + "n" * 90, 513), ("b", 512), ("c", 70_000)):
            info = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else name * 3)
            info.size = size
            archive.addfile(info, io.BytesIO(b"x" * size))
    content = out.getvalue()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [(m.name, m.offset_data, m.size, b"x" * m.size) for m in archive]
    stream = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(content)))
    members = read_members(stream if packed else io.BytesIO(content))
    assert [(m.name, m.offset_data, m.size, data.read()) for m, data in members] == expected


def test_cuts_are_noticed() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("a")
        info.size = 3_000_000
        archive.addfile(info, io.BytesIO(bytes(range(250)) * 12_000))
    for length in (0, 100, 512, 5000, 3_000_000 + 512, 3_000_320 + 512):
        with pytest.raises(tarfile.ReadError, match=r"cut off|unexpected end"):
            list(read_members(io.BytesIO(out.getvalue()[:length])))


def test_folders_of_images_beside_archives_are_refused(inputs, tmp_path) -> None:
    folder = pack(inputs[1], tmp_path / "packed", ".tar")
    (folder / "notes").mkdir()
    assert type(open_source(str(folder))).__name__ == "ArchiveSource"
    shutil.copytree(inputs[1] / "validation", folder / "validation")
    with pytest.raises(InputError, match=r"folders of images \(validation\) and archives \(test"):
        open_source(str(folder))
    for archive in folder.glob("*.tar"):
        archive.unlink()
    assert type(open_source(str(folder))).__name__ == "DirectorySource"


def test_a_directory_of_images_and_an_archive_is_a_directory(inputs, tmp_path) -> None:
    (tmp_path / f"{'a' * 16}.jpg").write_bytes(b"x")
    (tmp_path / "more.tar.gz").write_bytes(gzip.compress(b""))
    assert type(open_source(str(tmp_path))).__name__ == "DirectorySource"
    with pytest.raises(InputError, match="no archive is there"):
        open_source(str(tmp_path / "no*.tar"))
