"""Let one driver at a time write into a run, by a lease in the run's directory.

The driver renews its lease while it lives. Who finds the lease of a living one is refused; that of
a dead one is taken over: at once if its process was on this machine, else when it is renewed no
more. Before a checkpoint counts, and before any is removed, the lease is read again, so that a
driver that slept through a takeover ends without touching what is now another's. A lease that is
given back stays there and says so, for who sleeps until the other has finished.

A file beside it is locked while a lease is taken. Where it cannot be (a bucket, some network file
systems), a driver writes its lease, waits, and has it if it is still there: the last one wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from sharding.errors import InputError
from sharding.log import info
from sharding.storage import locks

_FILE, _LOCK = "lease.json", "lease.lock"
_BEAT_SECONDS = 10.0
# Without a beat, as seen by one clock; and by the clocks of two hosts, which may disagree.
_DEAD_SECONDS, _LONG_DEAD_SECONDS = 60.0, 900.0
_SETTLE_SECONDS = 2.0
_EXITING = 4  # Linux's PF_EXITING


class Held(RuntimeError):
    """Another process writes into the run; the message says which."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The driver that writes into a run.

    Attributes:
        attempt: its own random name.
        host, pid: where it runs, for people.
        machine: boot and process namespace in which ``pid`` counts.
        started: start of the process, as the system counts: ids come again.
        beat: when it was last known to live, in seconds since 1970.
        released: whether it has given the lease back.
    """

    attempt: str
    host: str
    pid: int
    machine: str
    started: str
    beat: float
    released: bool = False

    @classmethod
    def of_this_process(cls) -> Holder:
        """Describe this process, with a new attempt."""
        pid = os.getpid()
        return cls(
            attempt=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=pid,
            machine=_machine(),
            started=_start_of(pid),
            beat=time.time(),
        )

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, where this process can see it."""
        return self.machine == _machine()

    @property
    def is_gone(self) -> bool:
        """Whether it has given the lease back, or is known to be dead.

        One elsewhere that has just been killed is not.
        """
        if self.released:
            return True
        if self.is_here:
            if seen := _start_of(self.pid):
                return seen != self.started
            try:  # not shown: there is none, or /proc hides those of other users
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                pass
        return time.time() - self.beat > _LONG_DEAD_SECONDS

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Lease:
    """The right to write into a run; travels to workers.

    Attributes:
        run: directory, path or URL.
        holder: who has it.
    """

    run: str
    holder: Holder

    def read_taker(self) -> Holder | None:
        """Read who has taken the lease over, if anybody has; raises OSError as the storage does."""
        present = _read(self.run)
        is_ours = present is None or present.attempt == self.holder.attempt
        return None if is_ours else present

    def is_lost(self) -> bool:
        """Read whether another driver has taken the lease over; False if that is not known."""
        with contextlib.suppress(OSError):
            return self.read_taker() is not None
        return False

    def check(self) -> None:
        """Raise Held if another driver has taken the run over; OSError if that cannot be read."""
        if taker := self.read_taker():
            what = "took this run over" if taker.released else "trains this run now"
            raise Held(f"{self.run}: {taker} {what}; stopped, and nothing was removed")

    def beat(self) -> None:
        """Renew the lease unless it was taken over; raises as `check` does."""
        self.check()
        if storage.exists(self.run):  # else its storage is gone, and would begin anew
            _write(self.run, dataclasses.replace(self.holder, beat=time.time()))

    def release(self) -> None:
        """Give the lease back unless it was taken over; raises OSError as the storage does."""
        if not self.is_lost() and storage.exists(self.run):
            _write(self.run, dataclasses.replace(self.holder, released=True))


@contextlib.contextmanager
def hold(run: str) -> Iterator[Lease]:
    """Take the lease of a run, renew it within the block and give it back.

    If it is taken over, the main thread is interrupted.

    Args:
        run: directory, path or URL; created if it is missing.

    Raises:
        Held: a living process has it, or has taken it over.
        InputError: the storage takes no files.
    """
    lease = Lease(run, Holder.of_this_process())
    _take(lease)
    ended = threading.Event()
    beats = threading.Thread(target=_keep_beating, args=(lease, ended), daemon=True)
    beats.start()
    try:
        yield lease
    except BaseException:
        with contextlib.suppress(OSError):
            lease.check()
        raise
    finally:
        ended.set()
        beats.join(max(_BEAT_SECONDS, 10.0))  # a beat under way would write the lease again
        with contextlib.suppress(OSError, InputError):
            lease.release()


def _keep_beating(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_SECONDS):
        try:
            lease.beat()
        except (OSError, InputError):
            continue  # training waits for its storage, too
        except Held:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return


@contextlib.contextmanager
def refusals(location: str) -> Iterator[None]:
    """Turn an OSError of the storage of a run that is about to begin into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"a run cannot be kept here ({error.strerror or error})",
            file=location,
            fix="pass as --storage a directory, or the URL of a bucket, that can be written to",
        ) from None


def _take(lease: Lease) -> None:
    with refusals(lease.run), _locked(lease.run) as is_locked:
        _refuse_living(lease.run)
        _write(lease.run, lease.holder)
        if not is_locked:
            time.sleep(_SETTLE_SECONDS)
            lease.check()


@contextlib.contextmanager
def _locked(run: str) -> Iterator[bool]:
    """Lock a file of a run as far as its file system can; yields whether it could."""
    if "://" in run:
        yield False
        return
    Path(run).mkdir(parents=True, exist_ok=True)
    with Path(run, _LOCK).open("a+") as file:
        try:
            locks.lock(file)
        except OSError:
            yield False
        else:
            yield True


def refuse_local(run: str) -> None:
    """Raise Held if a living process of this machine has the lease; nothing is waited for."""
    with refusals(run):
        present = _read(run)
    if present is not None and present.is_here and not present.is_gone:
        raise _held(run, present)


def _held(run: str, holder: Holder) -> Held:
    return Held(
        f"{run}: {holder} trains this run; nothing was changed. Fix: wait for it, or end it; or "
        "train under another name"
    )


def _refuse_living(run: str) -> None:
    """Return when nobody alive has the lease; raises Held if somebody has."""
    present = seen = _read(run)
    waited_until = time.monotonic() + _DEAD_SECONDS
    while present is not None and not present.is_gone:
        if present.is_here or present != seen:
            raise _held(run, present)
        if time.monotonic() > waited_until:
            break
        if present is seen:
            info(f"{run} was trained by {present}; waiting up to a minute for a sign of life")
        time.sleep(min(1.0, _DEAD_SECONDS / 10))
        present = _read(run)


def _read(run: str) -> Holder | None:
    """Read the lease; None if there is none, or nothing that could be one."""
    try:
        raw = storage.read_json(storage.join(run, _FILE))
        return None if raw is None else Holder(**raw)
    except (ValueError, TypeError, FileNotFoundError):
        return None


def _write(run: str, holder: Holder) -> None:
    storage.write_json(storage.join(run, _FILE), dataclasses.asdict(holder))


def _machine() -> str:
    """Name the boot and process namespace; and the host, as clones of one memory image share both.

    A sandbox may lack the files.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _start_of(pid: int) -> str:
    """Look up when a process of this machine was started; "dead" if it is, or was just killed.

    "" if the system does not show it.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pending = Path(f"/proc/{pid}/status").read_text().partition("ShdPnd:")[2].split()[0]
    except (OSError, IndexError):
        return ""
    is_killed = int(pending, 16) >> (signal.SIGKILL - 1) & 1
    is_exiting = int(stat[6]) & _EXITING
    return "dead" if stat[0] in "ZX" or is_killed or is_exiting else stat[19]
