"""Objects in buckets: Arrow's own clients for S3 and Google, any fsspec file system for the rest.

Arrow's clients are compiled, have time limits and need no further package. Credentials and region
come from the environment (`AWS_PROFILE`, `AWS_ENDPOINT_URL`, application default credentials, ...);
a public bucket is read without any as ``s3://anonymous@bucket/...``.
"""

from __future__ import annotations

import datetime
import fnmatch
import os
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from sharding.encoded import MISSING, BadImage, Buffer, limit_bytes
from sharding.errors import InputError
from sharding.fetching import Fetching, Passing, patiently

_ANONYMOUS = "anonymous@"
_REFUSED = ("ACCESS_DENIED", "HTTP status 403", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")
_ABSENT = "NO_SUCH_BUCKET"


def file_system(scheme: str, bucket: str, fetching: Fetching, attempts: int = 1) -> fs.FileSystem:
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


def _s3(bucket: str, anonymous: bool, fetching: Fetching, attempts: int) -> fs.FileSystem:
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
    """Objects of one bucket; a `sharding.transport.Transport`."""

    def __init__(self, files: fs.FileSystem) -> None:
        self._files = files

    def read(self, url: str) -> Buffer:
        """A whole object."""
        with Sorted(), self._files.open_input_file(path_of(url)) as stream:
            limit_bytes(stream.size())
            data: bytes = stream.read()
            if len(data) != stream.size():
                raise Passing(f"{len(data):,} of {stream.size():,} bytes came")
            return data

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Some bytes of an object."""
        with Sorted(), self._files.open_input_file(path_of(url)) as stream:
            data: bytes = stream.read_at(min(length, stream.size() - offset), offset)
            if len(data) != min(length, stream.size() - offset):
                raise Passing(f"{len(data):,} of {length:,} bytes came")
            return data

    def size(self, url: str) -> int:
        """Bytes of an object."""
        with Sorted():
            info = self._files.get_file_info(path_of(url))
            if info.type != fs.FileType.File:
                raise BadImage(MISSING)
            return int(info.size)


def matching(url: str, fetching: Fetching) -> list[str]:
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
        names = fnmatch.filter(patiently(listed, fetching), pattern)
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
            raise Passing(_first_line(error)) from None


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    _, mark, cause = lines[0].partition("AWS Error ")  # after the key, which is told anyway
    return (cause if mark else lines[0])[:120]
