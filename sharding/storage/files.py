"""Write files atomically, and check them against known hashes.

A file appears whole or not at all: it is written to a temporary name, fsynced, then renamed.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import glob
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharding.errors import REPEAT_COMMAND, InputError
from sharding.layout import TEMPORARY, TEMPORARY_COPY

_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_PROBE_MEGABYTES = 4
_HASH_BLOCK = 1 << 22
_TRANSACTION: contextvars.ContextVar[list[tuple[Path, Path]] | None] = contextvars.ContextVar(
    "written files that wait to be renamed together", default=None
)


class DiskFull(InputError):
    """Report a disk that has no room for a file."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path`` atomically.

    The file is fsynced before the rename and its directory after it, so that a power cut leaves
    the old file or the new one. On an exception the temporary file is removed and ``path`` is
    untouched. Missing parent directories are created.

    Raises:
        DiskFull: there is no room.
    """
    final = Path(path)
    temporary = final.with_name(f"{final.name}{TEMPORARY}{secrets.token_hex(4)}")
    waiting = _TRANSACTION.get()
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _fsync(temporary)
        if waiting is not None:
            waiting.append((temporary, final))
        else:
            _rename(temporary, final)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the place may be what is wrong
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise _full(final, os.strerror(error.errno)) from None
        raise


@contextlib.contextmanager
def full_disk_told(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Raise `DiskFull` where a library fails to write into a directory because its disk is full.

    torch and others raise errors of their own then: whether there is room is tried out.

    Raises:
        DiskFull: there is no room.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _full(directory, os.strerror(error.errno)) from error
    except Exception as error:
        if (wrong := _lack_of_room(directory)) is None:
            raise
        raise _full(directory, wrong) from error


def _lack_of_room(directory: str | os.PathLike[str]) -> str | None:
    """Write some megabytes to a directory's disk; return what the system says if it is full."""
    part = os.urandom(1 << 20)  # which no file system stores in less
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            for _ in range(_PROBE_MEGABYTES):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return os.strerror(error.errno) if error.errno in _NO_ROOM else None
    return None


def _full(place: str | os.PathLike[str], reason: str) -> DiskFull:
    return DiskFull(
        f"cannot be written ({reason})",
        file=place,
        fix="free some space, then repeat the command: what is finished is kept",
    )


@contextlib.contextmanager
def transaction() -> Iterator[None]:
    """Let all that `replacing` writes inside appear at the end, in the order written, or nothing.

    A disk that fills up amid several files then leaves all of them as they were. Inside, what was
    written cannot be read back yet.
    """
    waiting: list[tuple[Path, Path]] = []
    token = _TRANSACTION.set(waiting)
    try:
        yield
        while waiting:
            _rename(*waiting.pop(0))
    finally:
        _TRANSACTION.reset(token)
        for temporary, _ in waiting:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as `stable_json`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(stable_json(value), encoding="utf-8")


def stable_json(value: Any) -> str:
    """Format readable JSON with sorted keys and a final newline: equal values, equal text."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def remove_temporaries(directory: str | os.PathLike[str]) -> int:
    """Remove temporary files that a killed writer left under ``directory``; return how many."""
    leftovers = [path for path in Path(directory).rglob(f"*{TEMPORARY_COPY}") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def remove_temporaries_beside(path: str | os.PathLike[str]) -> None:
    """Remove what a killed writer of exactly this file left; nothing else that looks alike."""
    final = Path(path)
    for leftover in final.parent.glob(f"{glob.escape(final.name)}{TEMPORARY_COPY}"):
        leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hash a file in blocks; in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def changed(path: Path, sha256: str) -> str | None:
    """Compare a file with its known hash; return what is wrong, None where nothing is."""
    if not path.is_file():
        return "missing"
    return None if sha256_of(path) == sha256 else "its content has changed (SHA-256 differs)"


def refuse_changed(path: Path, sha256: str) -> None:
    """Check a file before it is used.

    Raises:
        InputError: it is missing or its hash is another one.
    """
    wrong = changed(path, sha256)
    if wrong is not None:
        raise InputError(wrong, file=path, fix=REPEAT_COMMAND)


def _rename(temporary: Path, final: Path) -> None:
    os.replace(temporary, final)
    _fsync(final.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
