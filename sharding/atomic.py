"""Files appear whole or not at all: write to a temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TEMPORARY = ".tmp."


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path`` atomically.

    The file is fsynced before the rename and its directory after it, so that a power cut leaves
    the old file or the new one. On an exception the temporary file is removed and ``path`` is
    untouched. Missing parent directories are created.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f"{final.name}{_TEMPORARY}{secrets.token_hex(4)}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, final)
        _fsync_directory(final.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as `stable_json`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(stable_json(value), encoding="utf-8")


def stable_json(value: Any) -> str:
    """Readable JSON with sorted keys and a final newline: equal values, equal text."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def sweep(directory: str | os.PathLike[str]) -> int:
    """Remove temporary files that a killed writer left under ``directory``; return how many."""
    leftovers = [path for path in Path(directory).rglob(f"*{_TEMPORARY}*") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
