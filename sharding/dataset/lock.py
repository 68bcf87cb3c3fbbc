"""Guarding an output directory: one job at a time, nothing foreign overwritten, kills survived.

While a dataset has no manifest, `unfinished.json` says which command it will be the result of.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharding.errors import InputError
from sharding.layout import STAGING_FOLDER, UNFINISHED_FILE
from sharding.storage.files import remove_temporaries, remove_temporaries_beside, write_json


@contextlib.contextmanager
def acquire(directory: Path) -> Iterator[None]:
    """Hold a directory against other jobs; it is released even by `kill -9`.

    Once the work inside has succeeded, `STAGING` is removed.

    Raises:
        InputError: another job holds it, or it cannot be made.
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
    try:
        _lock(descriptor, directory)
        yield
        shutil.rmtree(directory / STAGING_FOLDER, ignore_errors=True)
    finally:
        os.close(descriptor)


def begin(directory: Path, identity: Mapping[str, Any], *, begun: bool = False) -> None:
    """Say what the directory is going to hold, unless it already says so.

    Temporary files that a killed job left are removed.

    Args:
        directory: of the dataset.
        identity: of the job.
        begun: what is there already is known to be the job's.

    Raises:
        InputError: it holds something else.
    """
    path = directory / UNFINISHED_FILE
    if path.is_file():
        _refuse_other(path, json.loads(path.read_text(encoding="utf-8")), identity)
        remove_temporaries(directory)
        return
    remove_temporaries_beside(path)  # of a job killed before it could say anything
    strangers = sorted(entry.name for entry in directory.iterdir())
    if strangers and not begun:
        raise InputError(
            f"the directory is not empty (it holds {strangers[0]!r}) and is no dataset of ours",
            file=directory,
            fix="choose another --output, or restore its dataset.json if it was a dataset",
        )
    write_json(path, identity)


def end(directory: Path) -> None:
    """Nothing is unfinished any more: the manifest is written, or all was taken back."""
    shutil.rmtree(directory / STAGING_FOLDER, ignore_errors=True)
    (directory / UNFINISHED_FILE).unlink(missing_ok=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two identities, for an error message."""
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return "; ".join(f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in keys)


def _refuse_other(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    found = differences(old, new)
    if found:
        raise InputError(
            f"an unfinished run with other options is here: {found}",
            file=path,
            fix="repeat its options, choose another --output, or remove the directory",
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise InputError(
                "another job is writing to this directory",
                file=directory,
                fix="wait until it ends",
            ) from None
