"""Read an object from a bucket or disk through an Arrow file system, in one attempt.

Arrow's own clients for S3 and Google are compiled, have time limits and need no further package;
any other scheme is served by fsspec, with that file system's own time limits. Credentials and
region come from the environment (`AWS_PROFILE`, `AWS_ENDPOINT_URL`, application default
credentials, ...); a public bucket is read without any as ``s3://anonymous@bucket/...``.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator

from pyarrow import fs

from sharding.errors import InputError
from sharding.log import first_line
from sharding.storage.retry import (
    MISSING,
    BadImage,
    Buffer,
    Refused,
    RetryPolicy,
    TransientError,
    limit_bytes,
)

LOCAL = "file"
_ANONYMOUS = "anonymous@"
_REFUSED = ("ACCESS_DENIED", "HTTP status 403", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")
_NO_BUCKET = "NO_SUCH_BUCKET"


class ArrowTransport:
    """Reads objects of one bucket; safe to use from many threads."""

    def __init__(self, files: fs.FileSystem) -> None:
        self._files = files

    def read(self, url: str) -> Buffer:
        """Read a whole object, of at most the size of an image."""
        with classified_errors(), self._files.open_input_file(key_of(url)) as stream:
            limit_bytes(stream.size())
            return _whole(stream.read(), stream.size())

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Read ``length`` bytes from ``offset`` on, or as many as there are."""
        with classified_errors(), self._files.open_input_file(key_of(url)) as stream:
            length = min(length, stream.size() - offset)
            return _whole(stream.read_at(length, offset), length)

    def size(self, url: str) -> int:
        """Ask for the size of an object in bytes."""
        with classified_errors():
            info = self._files.get_file_info(key_of(url))
        if info.type != fs.FileType.File:
            raise BadImage(MISSING)
        return int(info.size)


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise TransientError(f"{len(data):,} of {length:,} bytes came")
    return data


def key_of(url: str) -> str:
    """Cut a URL down to bucket and key, as a file system wants them; a path is its own key."""
    return url.rpartition("://")[2].removeprefix(_ANONYMOUS)


@contextlib.contextmanager
def classified_errors() -> Iterator[None]:
    """Turn a file system's errors into `BadImage` (missing, refused) or `TransientError`."""
    try:
        yield
    except FileNotFoundError:
        raise BadImage(MISSING) from None
    except OSError as error:
        if _NO_BUCKET in str(error):
            raise BadImage("there is no such bucket") from None
        if isinstance(error, PermissionError) or any(word in str(error) for word in _REFUSED):
            raise Refused(f"refused: {_reason(error)}") from None
        raise TransientError(_reason(error)) from None


def _reason(error: OSError) -> str:
    line = first_line(error, 1000)
    _, mark, cause = line.partition("AWS Error ")  # after the key, which errors name anyway
    return (cause if mark else line)[:120]


def file_system(scheme: str, bucket: str, policy: RetryPolicy, attempts: int = 1) -> fs.FileSystem:
    """Open the file system of a scheme, with the policy's time limits where it knows any.

    Args:
        scheme: of the URL; `LOCAL` for this machine's disks.
        bucket: that the URL names.
        policy: of which the time limit is used.
        attempts: of the client itself at each request; pauses between whole objects are ours.

    Raises:
        InputError: the scheme is unknown, or its package is not installed.
    """
    anonymous = bucket.startswith(_ANONYMOUS)
    if scheme == LOCAL:
        return fs.LocalFileSystem()
    if scheme == "s3":
        return _s3(bucket.removeprefix(_ANONYMOUS), anonymous, policy, attempts)
    if scheme in ("gs", "gcs"):
        limit = datetime.timedelta(seconds=policy.timeout)
        return fs.GcsFileSystem(anonymous=anonymous, retry_time_limit=limit)
    return _by_fsspec(scheme)


def _s3(bucket: str, anonymous: bool, policy: RetryPolicy, attempts: int) -> fs.FileSystem:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if region is None and endpoint is None:
        try:
            region = fs.resolve_s3_region(bucket)
        except OSError as error:
            raise InputError(
                f"the bucket is not found ({first_line(error)})",
                file=f"s3://{bucket}",
                fix="check its name and the network, or set AWS_REGION",
            ) from None
    return fs.S3FileSystem(
        anonymous=anonymous,
        region=region,
        # Named here, Arrow asks for /bucket/key; from the environment, for a host of the bucket's.
        endpoint_override=endpoint,
        request_timeout=policy.timeout,
        connect_timeout=policy.timeout,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        allow_delayed_open=True,  # a small object is one request instead of three
    )


def _by_fsspec(scheme: str) -> fs.FileSystem:
    try:
        import fsspec

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))
    except Exception as error:  # some want a host, or raise their own kinds
        raise InputError(
            f"no file system for {scheme}:// ({first_line(error)})",
            file=f"{scheme}://",
            fix="install the fsspec package that serves it on every worker",
        ) from None
