"""Lock an output directory: one job at a time, nothing foreign overwritten, continued after kills.

While a dataset has no manifest, `unfinished.json` says which command it will be the result of.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharding.errors import InputError
from sharding.layout import LOCK_FILE, STAGING_FOLDER, UNFINISHED_FILE, is_left_over
from sharding.storage.files import remove_temporaries, remove_temporaries_beside, write_json
from sharding.storage.locks import only, try_lock


@contextlib.contextmanager
def acquire(directory: Path, *, keep_staged: bool = False) -> Iterator[None]:
    """Lock a directory against other jobs; a process that is killed releases its lock.

    The directory is created if it is missing. After success what jobs have staged in it is removed,
    unless ``keep_staged`` says that this job changes nothing.

    Raises:
        InputError: another job holds the lock, or the directory cannot be created.
    """
    if directory.parts[:1] and directory.parts[0].endswith(":"):
        # pathlib has made "s3:/bucket" of it, which would be a local directory.
        raise InputError(
            "a URL is no directory",
            file=directory,
            fix="go through sharding.commands.workspace, as the jobs do",
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"cannot be used as output ({error.strerror})", file=directory, fix="choose another"
        ) from None
    with contextlib.ExitStack() as held:
        held.callback(os.close, descriptor)
        _lock(descriptor, directory, held)
        yield
        if not keep_staged:
            _remove_staged(directory)


def begin(directory: Path, identity: Mapping[str, Any]) -> None:
    """Record which command's result a directory will be, or check that it already says so.

    Temporary files that a killed job left are removed.

    Raises:
        InputError: the directory holds something else.
    """
    path = directory / UNFINISHED_FILE
    if is_begun(directory):
        _refuse_other(path, json.loads(path.read_text(encoding="utf-8")), identity)
        remove_temporaries(directory)
        return
    remove_temporaries_beside(path)  # of a job killed before it could write the file
    strangers = sorted(entry.name for entry in directory.iterdir() if entry.name != LOCK_FILE)
    if strangers:
        raise InputError(
            f"the directory is not empty (it holds {strangers[0]!r}) and is no dataset of ours",
            file=directory,
            fix="choose another --output, or restore its dataset.json if it was a dataset",
        )
    write_json(path, identity)


def is_begun(directory: Path) -> bool:
    """Tell whether a directory is recorded as some command's unfinished result."""
    return (directory / UNFINISHED_FILE).is_file()


def end(directory: Path) -> None:
    """Remove the record of the command: the manifest is written, or everything was taken back."""
    _remove_staged(directory)
    (directory / UNFINISHED_FILE).unlink(missing_ok=True)


def _remove_staged(directory: Path) -> None:
    """Remove the temporary files of jobs in `staging/`; leave all other files there."""
    for path in (directory / STAGING_FOLDER).glob("*"):
        with contextlib.suppress(OSError):  # another user's, in a folder of that user
            if is_left_over(path.relative_to(directory).as_posix(), ()) and path.is_file():
                path.unlink()
    with contextlib.suppress(OSError):  # it holds something else, or is not there
        (directory / STAGING_FOLDER).rmdir()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe what differs between two identities, for an error message."""
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return "; ".join(f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in keys)


def _refuse_other(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    changes = differences(old, new)
    if changes:
        raise InputError(
            f"an unfinished run with other options is here: {changes}",
            file=path,
            fix="repeat its options, choose another --output, or remove the directory",
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lock(descriptor: int, directory: Path, held: contextlib.ExitStack) -> None:
    """Lock the directory, and a file in it, which NFS shares between hosts."""
    is_free = True
    with contextlib.suppress(OSError):  # a file system without locks, or only to be read
        is_free = try_lock(descriptor) and held.enter_context(only(directory / LOCK_FILE))
    if not is_free:
        raise InputError(
            "another job is writing to this directory", file=directory, fix="wait until it ends"
        )
