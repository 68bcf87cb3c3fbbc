"""What a killed process left on the node is removed by the next; a full disk is named."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharding.errors import InputError
from sharding.storage import locks
from sharding.storage.files import replacing
from tests.support import nfs
from tests.support.rooms import little_room

CODE = """
import fcntl, sys
from sharding.storage import locks
from tests.support import nfs
if sys.argv[1] == "nfs":
    fcntl.flock = nfs.flock_of()
print(locks.scratch_directory(), flush=True)
(locks.scratch_directory() / "checkpoint").mkdir()
sys.stdin.read()
"""


def started(tmp_path: Path, disk: str = "local") -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, disk],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def ended(process: subprocess.Popen[str]) -> None:
    process.communicate("")


@pytest.mark.parametrize("disk", ["local", "nfs"])
def test_the_dead_are_swept_and_the_living_are_not(tmp_path: Path, disk: str) -> None:
    living, its = started(tmp_path, disk)
    killed, left = started(tmp_path, disk)
    killed.kill()
    ended(killed)
    assert left.is_dir()
    third, own = started(tmp_path, disk)
    assert its.is_dir()
    assert not left.exists()
    assert own.is_dir()
    for process in (third, living):
        ended(process)
    assert not own.exists()
    assert not its.exists()


def test_older_versions_directories_are_left_alone_and_they_leave_ours(tmp_path: Path) -> None:
    old = tmp_path / f"openimages-{os.getuid()}" / "tmpabcdefgh"
    (old / "checkpoint").mkdir(parents=True)
    process, own = started(tmp_path)
    assert (old / "checkpoint").is_dir()
    descriptor = os.open(own, os.O_RDONLY)
    assert not locks.try_lock(descriptor), "what they look at"
    os.close(descriptor)
    ended(process)


def test_locks_count_between_hosts_on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", nfs.flock_of())
    path = tmp_path / "lock"
    with locks.shared(path), locks.shared(path), path.open("a") as file:
        assert not locks.try_lock(file)
    with locks.exclusive(path), path.open("a") as file:
        assert not locks.try_lock(file)


def test_the_file_of_a_lock_that_one_alone_may_hold_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()  # of a process that was killed
    with locks.only(path) as is_held:
        assert is_held
        with locks.only(path) as is_held_twice:
            assert not is_held_twice
        assert path.exists()
    assert not path.exists()


def test_a_lock_of_a_file_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    try_lock = locks.try_lock

    def too_late(file: Any) -> bool:
        monkeypatch.setattr(locks, "try_lock", try_lock)
        path.unlink()  # by the holder before, between opening and locking
        return try_lock(file)

    monkeypatch.setattr(locks, "try_lock", too_late)
    with locks.only(path) as is_held:
        assert is_held
        with path.open("a") as file:
            assert not locks.try_lock(file)


def test_temporary_files_go_where_only_their_user_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"openimages-{os.getuid()}").mkdir(mode=0o777)
    for name in ("", "", "abc"):
        directory = locks.private_directory(name)
        assert directory.stat().st_mode & 0o777 == 0o700
    theirs = tmp_path / f"openimages-{os.getuid()}-x"
    (tmp_path / "of somebody else").mkdir()
    theirs.symlink_to(tmp_path / "of somebody else")
    with pytest.raises(InputError, match=r"not a directory of this user.*TMPDIR"):
        locks.private_directory("x")
    theirs.unlink()
    theirs.write_text("")
    with pytest.raises(InputError, match="not a directory of this user"):
        locks.private_directory("x")
    other = os.getuid() + 1
    (tmp_path / f"openimages-{other}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(InputError, match="not a directory of this user"):
        locks.private_directory()


def write(path: Path) -> None:
    path.write_bytes(bytes(1 << 21))


def write_whole(path: Path) -> None:
    with replacing(path) as temporary:
        write(temporary)


def write_as_torch(path: Path) -> None:
    try:
        write(path)
    except OSError:
        raise RuntimeError("unexpected pos 576 vs 534") from None


@pytest.mark.parametrize("job", [write, write_whole, write_as_torch])
def test_a_full_disk_is_told_whatever_a_library_makes_of_it(
    job: Callable[[Path], None], tmp_path: Path
) -> None:
    wanted = rf"^{tmp_path}: the disk of this machine is full.*free some space there, or move it"
    told = pytest.raises(locks.ScratchFull, match=wanted)
    with told as full, little_room(), locks.scratch_space(tmp_path, "move it"):
        job(tmp_path / "file")
    assert full.value.exit_code == 75
    told = pytest.raises(locks.ScratchFull, match="TMPDIR")
    with told, little_room(), locks.temporary_directory() as folder:
        job(folder / "file")
    assert not folder.exists()


@pytest.mark.parametrize(
    "error", [RuntimeError("of the code"), FileNotFoundError(2, "gone"), InputError("bad")]
)
def test_other_errors_are_not_the_disks(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised, locks.scratch_space(tmp_path):
        raise error
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []
