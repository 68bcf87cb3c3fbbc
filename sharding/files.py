"""Files of a dataset by relative path, wherever they lie: their sizes and hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sharding.errors import AGAIN, InputError

_CHUNK = 1 << 22


class Files(Protocol):
    """What checking a dataset asks of the place where it lies; travels to workers."""

    def size(self, path: str) -> int | None:
        """Bytes of a file, None where there is none."""
        ...

    def sha256(self, path: str) -> str:
        """Hash of a file's content, in hexadecimal."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalFiles:
    """The files of a directory."""

    directory: Path

    def size(self, path: str) -> int | None:
        """Bytes of a file, None where there is none."""
        file = self.directory / path
        return file.stat().st_size if file.is_file() else None

    def sha256(self, path: str) -> str:
        """Hash of a file's content, in hexadecimal."""
        return sha256_of(self.directory / path)


def sha256_of(path: Path) -> str:
    """Hash of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def changed(path: Path, known: str) -> str | None:
    """What is wrong with a file whose hash is known; None where nothing is."""
    if not path.is_file():
        return "missing"
    return None if sha256_of(path) == known else "its content has changed (SHA-256 differs)"


def refuse_changed(path: Path, known: str) -> None:
    """Let nothing follow from a file that is not what it was.

    Raises:
        InputError: it is missing or its hash is another one.
    """
    wrong = changed(path, known)
    if wrong is not None:
        raise InputError(wrong, file=path, fix=AGAIN)
