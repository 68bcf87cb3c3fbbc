"""Objects in buckets: Arrow's own clients for S3 and Google, any fsspec file system for the rest.

Arrow's clients are compiled, have time limits and need no further package. Credentials and region
come from the environment (`AWS_PROFILE`, `AWS_ENDPOINT_URL`, application default credentials, ...);
a public bucket is read without any as ``s3://anonymous@bucket/...``.

Files of a dataset below a URL: looked at, put, removed.

An object is put whole or not at all: a reader sees the old one or the new one. Buckets know no
locks and no renames; what makes a dataset of objects is the order in which they are put
(`sharding.commands.workspace`).
"""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from sharding.errors import InputError
from sharding.storage.files import replacing, sha256_of
from sharding.storage.retry import (
    MISSING,
    BadImage,
    Buffer,
    RetryPolicy,
    TransientError,
    limit_bytes,
    retry,
)

_ANONYMOUS = "anonymous@"

_REFUSED = ("ACCESS_DENIED", "HTTP status 403", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")

_ABSENT = "NO_SUCH_BUCKET"


def file_system(
    scheme: str, bucket: str, fetching: RetryPolicy, attempts: int = 1
) -> fs.FileSystem:
    """The file system of a scheme, with the time limits asked for where it knows any.

    Args:
        scheme: of the URL.
        bucket: that it names.
        fetching: how patiently.
        attempts: of the client itself at each request; pauses between whole objects are ours.

    Raises:
        InputError: the scheme is unknown, or its package is not installed.
    """
    anonymous = bucket.startswith(_ANONYMOUS)
    if scheme == "s3":
        return _s3(bucket.removeprefix(_ANONYMOUS), anonymous, fetching, attempts)
    if scheme in ("gs", "gcs"):
        limit = datetime.timedelta(seconds=fetching.timeout)
        return fs.GcsFileSystem(anonymous=anonymous, retry_time_limit=limit)
    return _by_fsspec(scheme)


def _s3(bucket: str, anonymous: bool, fetching: RetryPolicy, attempts: int) -> fs.FileSystem:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    own_server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if region is None and own_server is None:
        try:
            region = fs.resolve_s3_region(bucket)
        except OSError as error:
            raise InputError(
                f"the bucket is not found ({str(error).splitlines()[0][:120]})",
                file=f"s3://{bucket}",
                fix="check its name and the network, or set AWS_REGION",
            ) from None
    return fs.S3FileSystem(
        anonymous=anonymous,
        region=region,
        # Named here, Arrow asks for /bucket/key; from the environment, for a host of the bucket's.
        endpoint_override=own_server,
        request_timeout=fetching.timeout,
        connect_timeout=fetching.timeout,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        allow_delayed_open=True,  # a small object is one request instead of three
    )


def _by_fsspec(scheme: str) -> fs.FileSystem:
    try:
        import fsspec

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))
    except (ImportError, ValueError) as error:
        raise InputError(
            f"no file system for {scheme}:// ({str(error).splitlines()[0]})",
            file=f"{scheme}://",
            fix="install the fsspec package that serves it on every worker",
        ) from None


class CloudTransport:
    """Objects of one bucket; a `sharding.storage.transport.Transport`."""

    def __init__(self, files: fs.FileSystem) -> None:
        self._files = files

    def read(self, url: str) -> Buffer:
        """A whole object."""
        with Sorted(), self._files.open_input_file(path_of(url)) as stream:
            limit_bytes(stream.size())
            data: bytes = stream.read()
            if len(data) != stream.size():
                raise TransientError(f"{len(data):,} of {stream.size():,} bytes came")
            return data

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Some bytes of an object."""
        with Sorted(), self._files.open_input_file(path_of(url)) as stream:
            data: bytes = stream.read_at(min(length, stream.size() - offset), offset)
            if len(data) != min(length, stream.size() - offset):
                raise TransientError(f"{len(data):,} of {length:,} bytes came")
            return data

    def size(self, url: str) -> int:
        """Bytes of an object."""
        with Sorted():
            info = self._files.get_file_info(path_of(url))
            if info.type != fs.FileType.File:
                raise BadImage(MISSING)
            return int(info.size)


def matching(url: str, fetching: RetryPolicy) -> list[str]:
    """The objects whose name matches the last part of the URL, sorted; nothing below them.

    Raises:
        InputError: this kind of place cannot be listed, or does not answer.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        raise InputError("a web server cannot be listed", file=url, fix="name one archive")
    folder, _, pattern = path_of(url).rpartition("/")
    files = file_system(parts.scheme, parts.netloc, fetching)

    def listed() -> list[str]:
        with Sorted():
            found = files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
            return sorted(info.base_name for info in found if info.is_file)

    try:
        names = fnmatch.filter(retry(listed, fetching), pattern)
    except BadImage as bad:
        raise InputError(f"cannot be listed ({bad})", file=url, fix="check the URL") from None
    return [f"{url.rpartition('/')[0]}/{name}" for name in names]


def path_of(url: str) -> str:
    """Bucket and key, as a file system wants them."""
    return url.partition("://")[2].removeprefix(_ANONYMOUS)


class Sorted:
    """Sorts the errors of a file system into gone, refused and passing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise BadImage(MISSING) from None
        if isinstance(error, OSError) and _ABSENT in str(error):
            raise BadImage("there is no such bucket") from None
        if isinstance(error, PermissionError) or (
            isinstance(error, OSError) and any(word in str(error) for word in _REFUSED)
        ):
            raise BadImage(f"refused: {_first_line(error)}") from None
        if isinstance(error, OSError):
            raise TransientError(_first_line(error)) from None


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    _, mark, cause = lines[0].partition("AWS Error ")  # after the key, which is told anyway
    return (cause if mark else lines[0])[:120]


Result = TypeVar("Result")

_CHUNK = 1 << 23

_ATTEMPTS = 3
"""Of each request, by the client: a tar is put in many, and one that fails must not cost all."""

_READABLE = "check the URL, the credentials and the network"

_WRITABLE = "check credentials and network, then repeat the command: what was put counts"


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """`sharding.storage.object_store.Files` below a URL of any scheme that Arrow or fsspec can
    write.

    Every method raises an InputError that names the URL where the place refuses, or does not
    answer however often it is asked.

    Attributes:
        url: without a slash at its end.
        fetching: how patiently.
    """

    url: str
    fetching: RetryPolicy

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
            raise TransientError(f"{left:,} bytes did not come")

    def _carefully(self, path: str, done: str, action: Callable[[], Result]) -> Result:
        def attempt() -> Result:
            with Sorted():
                return action()

        try:
            return retry(attempt, self.fetching, done)
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
def _opened(scheme: str, bucket: str, fetching: RetryPolicy) -> fs.FileSystem:
    if scheme in ("http", "https"):
        raise InputError(
            "a web server takes no files", file=f"{scheme}://{bucket}", fix="name a bucket"
        )
    return file_system(scheme, bucket, fetching, _ATTEMPTS)


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
