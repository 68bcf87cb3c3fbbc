"""Files of a dataset below a URL: looked at, put, removed.

An object is put whole or not at all: a reader sees the old one or the new one. Buckets know no
locks and no renames; what makes a dataset of objects is the order in which they are put
(`sharding.desk`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from sharding.atomic import replacing
from sharding.cloud import Sorted, file_system, path_of
from sharding.encoded import BadImage
from sharding.errors import InputError
from sharding.fetching import Fetching, Passing, patiently

Result = TypeVar("Result")

_CHUNK = 1 << 23
_ATTEMPTS = 3
"""Of each request, by the client: a tar is put in many, and one that fails must not cost all."""
_READABLE = "check the URL, the credentials and the network"
_WRITABLE = "check credentials and network, then repeat the command: what was put counts"


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """`sharding.files.Files` below a URL of any scheme that Arrow or fsspec can write.

    Every method raises an InputError that names the URL where the place refuses, or does not
    answer however often it is asked.

    Attributes:
        url: without a slash at its end.
        fetching: how patiently.
    """

    url: str
    fetching: Fetching

    def size(self, path: str) -> int | None:
        """Bytes of an object, None where there is none."""

        def asked() -> int | None:
            info = self._files.get_file_info(self._key(path))
            return int(info.size) if info.type == fs.FileType.File else None

        return self._carefully(path, "read", asked)

    def sha256(self, path: str) -> str:
        """Hash of an object's content, in hexadecimal."""

        def hashed() -> str:
            digest = hashlib.sha256()
            for part in self._parts(path):
                digest.update(part)
            return digest.hexdigest()

        return self._carefully(path, "read", hashed)

    def names(self) -> list[str]:
        """Names of objects and folders right below the URL, sorted."""
        return sorted(info.base_name for info in self._listed(recursive=False))

    def sizes(self) -> dict[str, int]:
        """Bytes of all objects at any depth, by path."""
        prefix = f"{self._key('')}".rstrip("/") + "/"
        return {
            info.path.lstrip("/").removeprefix(prefix): int(info.size)
            for info in self._listed(recursive=True)
            if info.type == fs.FileType.File
        }

    def fetch(self, path: str, target: Path) -> None:
        """Copy an object to a file, which appears whole."""

        def copied() -> None:
            with replacing(target) as temporary, temporary.open("wb") as out:
                for part in self._parts(path):
                    out.write(part)

        self._carefully(path, "read", copied)

    def put(self, path: str, source: Path) -> None:
        """Copy a file to an object, which appears whole."""

        def copied() -> None:
            stream = self._files.open_output_stream(self._key(path))
            # In one call: Arrow completes an object that is let go of, so that whatever came
            # between two would publish the first of them.
            stream.write(_content(source))
            stream.close()

        self._carefully(path, "written", copied)

    def remove(self, path: str) -> None:
        """Remove an object; none is fine, too."""

        def removed() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.delete_file(self._key(path))

        self._carefully(path, "written", removed)

    @property
    def _files(self) -> fs.FileSystem:
        parts = urlsplit(self.url)
        return _opened(parts.scheme, parts.netloc, self.fetching)

    def _key(self, path: str) -> str:
        return path_of(f"{self.url}/{path}").rstrip("/")

    def _listed(self, *, recursive: bool) -> list[fs.FileInfo]:
        folder = fs.FileSelector(self._key(""), allow_not_found=True, recursive=recursive)
        return self._carefully("", "read", lambda: self._files.get_file_info(folder))

    def _parts(self, path: str) -> Iterator[bytes]:
        with self._files.open_input_file(self._key(path)) as stream:
            left = stream.size()
            while left and (part := stream.read(_CHUNK)):
                left -= len(part)
                yield part
        if left:
            raise Passing(f"{left:,} bytes did not come")

    def _carefully(self, path: str, done: str, action: Callable[[], Result]) -> Result:
        def attempt() -> Result:
            with Sorted():
                return action()

        try:
            return patiently(attempt, self.fetching, done)
        except BadImage as bad:
            raise InputError(
                f"cannot be {done} ({bad})",
                file=f"{self.url}/{path}".rstrip("/"),
                fix=_READABLE if done == "read" else _WRITABLE,
            ) from None


def _content(file: Path) -> pa.Buffer | bytes:
    """A file's bytes, not read before they are used."""
    return pa.memory_map(str(file)).read_buffer() if file.stat().st_size else b""


@functools.lru_cache(maxsize=8)
def _opened(scheme: str, bucket: str, fetching: Fetching) -> fs.FileSystem:
    if scheme in ("http", "https"):
        raise InputError(
            "a web server takes no files", file=f"{scheme}://{bucket}", fix="name a bucket"
        )
    return file_system(scheme, bucket, fetching, _ATTEMPTS)
