"""Read and write objects below a URL, or files below a directory, with retries.

An object is put whole or not at all: a reader sees the old one or the new one. Buckets know no
locks and no renames; what makes a dataset of objects is the order in which they are put
(`sharding.commands.workspace`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from sharding.errors import InputError
from sharding.log import first_line
from sharding.storage.arrow_transport import (
    LOCAL,
    ArrowTransport,
    classified_errors,
    file_system,
    key_of,
)
from sharding.storage.files import replacing
from sharding.storage.http_transport import HttpTransport
from sharding.storage.retry import (
    BadImage,
    Buffer,
    RetryPolicy,
    TransientError,
    retry,
)

Result = TypeVar("Result")
Transport = HttpTransport | ArrowTransport

_WEB = ("http", "https")
_CHUNK = 1 << 23
_ATTEMPTS = 3
"""Of each request, by the client: a tar is put in many, and one that fails must not cost all."""
_READABLE = "check the URL, the credentials and the network"
_WRITABLE = "check credentials and network, then repeat the command: what was put counts"


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """Objects below a URL, or files below a directory; travels to workers.

    Schemes are http and https (for reading), s3, gs, and whatever fsspec serves. Clients are opened
    once a process and policy.

    `read` and `open` raise what becomes of an image; every other method raises an InputError that
    names the URL where the place refuses, or does not answer however often it is asked. Paths are
    relative to ``url``; "" is the object at the URL itself.

    Attributes:
        url: URL or directory.
        policy: time limits, attempts and pauses.
    """

    url: str
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    @classmethod
    def local(cls, directory: str | os.PathLike[str]) -> ObjectStore:
        """Open a directory: what fails on a disk is not tried again."""
        return cls(url=os.fspath(directory), policy=RetryPolicy(tries=1))

    def connect(self) -> None:
        """Check that there is a client for the URL; nothing is asked of the server yet.

        Raises:
            InputError: no file system is known or installed for the scheme.
        """
        _ = self._transport

    def read(self, path: str = "") -> Buffer:
        """Read a whole object, of at most the size of an image.

        Raises:
            BadImage: it is missing, refused, or too large for an image.
            RetriesExhausted: every attempt failed.
        """
        with _urls_as_reasons():
            return retry(lambda: self._transport.read(self._url_of(path)), self.policy)

    def size(self, path: str) -> int | None:
        """Ask for the size of an object in bytes, None where there is none."""

        def ask() -> int | None:
            info = self._files.get_file_info(key_of(self._url_of(path)))
            return int(info.size) if info.type == fs.FileType.File else None

        return self._retried(path, "read", ask)

    def open(self, path: str = "") -> tuple[BinaryIO, int]:
        """Open an object to be read range by range; return the stream and its length in bytes.

        Raises:
            BadImage: it is missing or refused, or every attempt failed; reading raises the same.
        """
        url = self._url_of(path)
        with _urls_as_reasons():
            length = retry(lambda: self._transport.size(url), self.policy)
        stream = _RangeStream(self._transport, url, length, self.policy)
        return cast(BinaryIO, io.BufferedReader(stream, _CHUNK)), length

    def sha256(self, path: str) -> str:
        """Hash the content of an object; in hexadecimal."""

        def hash_parts() -> str:
            digest = hashlib.sha256()
            for part in self._parts(path):
                digest.update(part)
            return digest.hexdigest()

        return self._retried(path, "read", hash_parts)

    def names(self) -> list[str]:
        """List the names of objects and folders right below the URL, sorted."""
        return sorted(info.base_name for info in self._list(recursive=False))

    def sizes(self) -> dict[str, int]:
        """List the sizes in bytes of all objects at any depth, by path."""
        prefix = key_of(self.url).rstrip("/") + "/"
        return {
            info.path.lstrip("/").removeprefix(prefix): int(info.size)
            for info in self._list(recursive=True)
            if info.type == fs.FileType.File
        }

    def download(self, path: str, target: Path) -> None:
        """Copy an object to a file, which appears whole."""

        def copy() -> None:
            with replacing(target) as temporary, temporary.open("wb") as out:
                for part in self._parts(path):
                    out.write(part)

        self._retried(path, "read", copy)

    def upload(self, path: str, source: Path) -> None:
        """Copy a file to an object, which appears whole."""

        def copy() -> None:
            stream = self._files.open_output_stream(key_of(self._url_of(path)))
            # In one call: Arrow completes an object that is let go of, so that whatever came
            # between two would publish the first of them.
            stream.write(_content(source))
            stream.close()

        self._retried(path, "written", copy)

    def move(self, path: str, target: str) -> None:
        """Give an object another path; one that is there already is replaced."""

        def rename() -> None:
            key = key_of(self._url_of(target))
            if isinstance(self._files, fs.LocalFileSystem):
                self._files.create_dir(os.path.dirname(key))
            self._files.move(key_of(self._url_of(path)), key)

        self._retried(path, "written", rename)

    def remove(self, path: str) -> None:
        """Remove an object; none is fine, too."""

        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.delete_file(key_of(self._url_of(path)))

        self._retried(path, "written", delete)

    def _url_of(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    @property
    def _transport(self) -> Transport:
        return _open_transport(*_scheme_and_bucket(self.url), self.policy)

    @property
    def _files(self) -> fs.FileSystem:
        return _open_files(*_scheme_and_bucket(self.url), self.policy)

    def _list(self, *, recursive: bool) -> list[fs.FileInfo]:
        key = key_of(self.url).rstrip("/")
        folder = fs.FileSelector(key, allow_not_found=True, recursive=recursive)
        return self._retried("", "read", lambda: self._files.get_file_info(folder))

    def _parts(self, path: str) -> Iterator[bytes]:
        with self._files.open_input_file(key_of(self._url_of(path))) as stream:
            missing = stream.size()
            while missing and (part := stream.read(_CHUNK)):
                missing -= len(part)
                yield part
        if missing:
            raise TransientError(f"{missing:,} bytes did not come")

    def _retried(self, path: str, done: str, action: Callable[[], Result]) -> Result:
        def attempt() -> Result:
            with classified_errors():
                return action()

        try:
            return retry(attempt, self.policy, done)
        except BadImage as bad:
            raise InputError(
                f"cannot be {done} ({bad})",
                file=self._url_of(path),
                fix=_READABLE if done == "read" else _WRITABLE,
            ) from None


class _RangeStream(io.RawIOBase):
    """Reads an object in ranges; a broken connection costs a range, not a 50 GB archive."""

    def __init__(self, transport: Transport, url: str, length: int, policy: RetryPolicy) -> None:
        self._transport, self._url, self._policy = transport, url, policy
        self._length, self._position = length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}
        self._position = origins[whence] + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._length - self._position, _CHUNK)
        if count <= 0:
            return 0
        data = retry(
            lambda: self._transport.read_range(self._url, self._position, count), self._policy
        )
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@contextlib.contextmanager
def _urls_as_reasons() -> Iterator[None]:
    """Turn the ValueErrors of URLs that cannot be split into `BadImage`."""
    try:
        yield
    except ValueError as error:
        raise BadImage(f"not a URL: {first_line(error)}") from None


@functools.lru_cache(maxsize=8)
def _open_transport(scheme: str, bucket: str, policy: RetryPolicy) -> Transport:
    """Open a transport once for many shards, so that its connections are kept."""
    if scheme in _WEB:
        return HttpTransport(policy)
    return ArrowTransport(file_system(scheme, bucket, policy))


@functools.lru_cache(maxsize=8)
def _open_files(scheme: str, bucket: str, policy: RetryPolicy) -> fs.FileSystem:
    if scheme in _WEB:
        raise InputError(
            "a web server takes no files and lists none",
            file=f"{scheme}://",
            fix="name a bucket, or one file to read",
        )
    return file_system(scheme, bucket, policy, _ATTEMPTS)


def _scheme_and_bucket(url: str) -> tuple[str, str]:
    """Split off what a client is opened for; all web servers share one."""
    if "://" not in url:
        return LOCAL, ""
    parts = urlsplit(url)
    return parts.scheme, "" if parts.scheme in _WEB else parts.netloc


def _content(file: Path) -> pa.Buffer | bytes:
    """Map a file's bytes, so that they are not read before they are used."""
    return pa.memory_map(str(file)).read_buffer() if file.stat().st_size else b""
