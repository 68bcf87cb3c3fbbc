"""A run has one writer: the living are refused, the dead are followed, the fenced-off stop."""

from __future__ import annotations

import dataclasses
import fcntl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.cluster import lease
from pipeline.cluster.lease import Held, Holder, Lease, hold
from sharding.storage import locks
from tests.support import nfs


@pytest.fixture(params=["directory", "bucket"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return str(tmp_path / "runs/a")
    return str(request.getfixturevalue("bucket").url("runs/a"))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_BEAT", 0.05), ("_DEAD", 0.6), ("_SETTLE", 0.05)):
        monkeypatch.setattr(lease, f"{name}_SECONDS", seconds)


def leave(run: str, **changes: Any) -> Holder:
    """Leave the lease of a driver that does not renew it."""
    left = dataclasses.replace(Holder.of_this_process(), **changes)
    storage.write_json(f"{run}/lease.json", dataclasses.asdict(left))
    return left


def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_driver_is_refused_and_one_after_the_end_is_not(run: str) -> None:
    with hold(run) as first:
        message = f"{first.holder.pid} on {first.holder.host} trains this run; nothing was changed"
        for refused in (lambda: hold(run).__enter__(), lambda: lease.refuse_local(run)):
            with pytest.raises(Held, match=message):
                refused()
        first.check()
    lease.refuse_local(run)
    with hold(run):
        lease_before = storage.read_json(f"{run}/lease.json")
        assert lease_before["attempt"] != first.holder.attempt


def test_a_dead_process_of_this_machine_is_followed_at_once(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_DEAD_SECONDS", 600.0)
    for gone in ({"pid": dead()}, {"started": "1"}):  # the second: its id has come again
        leave(run, **gone)
        lease.refuse_local(run)
        with hold(run) as held:
            held.check()


def test_a_process_that_was_just_killed_is_dead(run: str) -> None:
    command = [sys.executable, "-c", "held = bytearray(10**9); print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = leave(run, pid=process.pid, started=lease._start_of(process.pid))
        assert not left.is_gone
        process.kill()
        assert left.is_gone


@pytest.mark.parametrize(
    ("error", "is_gone"), [(PermissionError, False), (ProcessLookupError, True)]
)
def test_a_process_that_proc_hides_is_asked(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError], is_gone: bool
) -> None:
    def kill(pid: int, number: int) -> None:
        raise error

    monkeypatch.setattr(lease, "_start_of", lambda pid: "")
    monkeypatch.setattr(lease.os, "kill", kill)
    left = dataclasses.replace(Holder.of_this_process(), started="1")
    assert left.is_gone == is_gone


def test_a_machine_is_named_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert Holder.of_this_process().is_here
    assert lease._machine() == lease.socket.gethostname()


def test_a_silent_process_elsewhere_is_followed_after_a_while(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(run, machine="elsewhere")
    begun = time.monotonic()
    with hold(run):
        assert time.monotonic() - begun > 0.5
    monkeypatch.setattr(lease, "_DEAD_SECONDS", 600.0)
    leave(run, machine="elsewhere", beat=time.time() - 3600)
    begun = time.monotonic()
    with hold(run):
        assert time.monotonic() - begun < 300


def test_a_living_process_elsewhere_is_refused(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_DEAD_SECONDS", 10.0)  # beats are late on a loaded machine
    with hold(run) as held:
        monkeypatch.setattr(lease, "_machine", lambda: "elsewhere")
        with pytest.raises(Held, match=f"process {held.holder.pid} on"):
            hold(run).__enter__()
        held.check()


def test_a_fenced_off_driver_stops_and_leaves_all_to_the_other(run: str) -> None:
    seen: list[Lease] = []

    def write() -> None:
        with hold(run) as held:
            seen.append(held)
            for _ in range(300):  # a beat that is on its way may undo it
                leave(run, pid=7, host="other", attempt="taken")
                time.sleep(0.2)  # interrupted at the next beat

    begun = time.monotonic()
    with pytest.raises(Held, match="process 7 on other trains this run now; stopped"):
        write()
    assert time.monotonic() - begun < 50
    assert storage.read_json(f"{run}/lease.json")["attempt"] == "taken"
    assert seen[0].is_lost()
    with pytest.raises(Held):
        seen[0].check()


def test_a_driver_that_slept_until_the_other_had_finished_is_fenced_off(run: str) -> None:
    asleep = Lease(run, leave(run, pid=dead()))
    with hold(run) as other:
        assert asleep.is_lost()
    assert asleep.is_lost()
    for act in (asleep.check, asleep.beat):
        with pytest.raises(Held, match=rf"{other.holder.pid} on \S+ took this run over; stopped"):
            act()
    asleep.release()
    assert storage.read_json(f"{run}/lease.json")["attempt"] == other.holder.attempt


def test_a_lease_that_cannot_be_read_is_none(run: str) -> None:
    storage.write_json(f"{run}/lease.json", {"attempt": 1})
    with hold(run) as held:
        assert held.read_taker() is None


def test_the_place_of_a_run_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    run = Lease(str(tmp_path / "gone"), Holder.of_this_process())
    run.beat()
    assert not (tmp_path / "gone").exists()


def test_a_run_is_locked_between_hosts_on_nfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", nfs.flock_of())
    run = tmp_path / "runs/a"
    with lease._locked(str(run)) as is_locked:
        assert is_locked
        with (run / "lease.lock").open("a") as file:
            assert not locks.try_lock(file)


RACER = """
import sys
from pipeline.cluster import lease
lease._BEAT_SECONDS = 0.05
print("ready", flush=True)
input()
try:
    with lease.hold(sys.argv[1]):
        print("held", flush=True)
        input()
except lease.Held:
    print("refused", flush=True)
"""


def test_of_drivers_that_start_together_one_writes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path / "run")]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    racers: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(4)]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
    for racer in racers:
        racer.stdin.write("go\n")
    assert sorted(racer.stdout.readline() for racer in racers) == ["held\n", *["refused\n"] * 3]
    for racer in racers:
        racer.communicate()
