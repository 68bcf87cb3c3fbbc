"""Bytes of one object at a URL: http and https by requests, s3 and gs by Arrow, else by fsspec.

A `Transport` makes one attempt; `sharding.storage.retry.retry` repeats it. Failures are sorted
here: gone (`BadImage` with the reason "missing"), refused (`BadImage`), or perhaps passing
(`Passing`). Time limits hold for http, s3 and gs; what fsspec opens keeps to that file system's
own.

A remote object as a stream: read in ranges, each of them tried again where it fails.

A 50 GB archive takes longer than any connection lasts; a broken one costs a range, not the archive.
"""

from __future__ import annotations

import functools
import io
import time
from typing import BinaryIO, Protocol, cast
from urllib.parse import urlsplit

from sharding.storage.retry import (
    MISSING,
    BadImage,
    Buffer,
    RetryPolicy,
    TransientError,
    limit_bytes,
    retry,
)

_CHUNK = 1 << 18

_GONE = (404, 410)

_BUSY = (408, 425, 429)

_NO_SUCH_METHOD = (405, 501)


class Transport(Protocol):
    """Reads objects below one host or bucket; safe to use from many threads."""

    def read(self, url: str) -> Buffer:
        """A whole object.

        Raises:
            BadImage: it is missing, refused, or too large for an image.
            Passing: the attempt failed.
        """
        ...

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Bytes from ``offset`` on, ``length`` or as many as there are; raises alike."""
        ...

    def size(self, url: str) -> int:
        """Bytes of the object; raises alike."""
        ...


@functools.lru_cache(maxsize=8)
def open_transport(scheme: str, bucket: str, fetching: RetryPolicy) -> Transport:
    """The transport for URLs of this scheme and bucket; connections are kept between shards.

    Raises:
        InputError: no file system is known or installed for the scheme.
    """
    if scheme in ("http", "https"):
        return _HttpTransport(fetching)
    from sharding.storage.object_store import CloudTransport, file_system

    return CloudTransport(file_system(scheme, bucket, fetching))


def transport_of(url: str, fetching: RetryPolicy) -> Transport:
    """The transport for a URL."""
    parts = urlsplit(url)
    web = parts.scheme in ("http", "https")
    return open_transport(parts.scheme, "" if web else parts.netloc, fetching)


class _HttpTransport:
    def __init__(self, fetching: RetryPolicy) -> None:
        import requests

        self._limit = fetching.timeout
        self._session = requests.Session()
        # Encoded transfers would hide a short read.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.headers["User-Agent"] = "openimages-boostlu"
        adapter = requests.adapters.HTTPAdapter(
            pool_maxsize=fetching.at_once, pool_block=True, max_retries=0
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def read(self, url: str) -> Buffer:
        return self._get(url, {})

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        data = self._get(url, {"Range": f"bytes={offset}-{offset + length - 1}"}, wanted=206)
        return bytes(data)

    def size(self, url: str) -> int:
        import requests

        try:
            response = self._session.head(url, timeout=self._limit, allow_redirects=True)
        except requests.RequestException as error:
            raise TransientError(_reason(error)) from None
        length = response.headers.get("Content-Length")
        if response.status_code in _NO_SUCH_METHOD or (response.ok and length is None):
            raise BadImage("the server does not tell its size")
        _sort(response.status_code, response.headers.get("Retry-After"), 200)
        return int(length or 0)

    def _get(self, url: str, headers: dict[str, str], wanted: int = 200) -> bytearray:
        import requests

        deadline = time.monotonic() + 4 * self._limit
        try:
            with self._session.get(url, headers=headers, timeout=self._limit, stream=True) as found:
                _sort(found.status_code, found.headers.get("Retry-After"), wanted)
                data = bytearray()
                for chunk in found.iter_content(_CHUNK):
                    data += chunk
                    limit_bytes(len(data))
                    if time.monotonic() > deadline:
                        raise TransientError(f"slower than {4 * self._limit:g} s")
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise BadImage(f"not a URL: {_reason(error)}") from None
        except requests.exceptions.TooManyRedirects:
            raise BadImage("redirected in a circle") from None
        except requests.RequestException as error:
            raise TransientError(_reason(error)) from None
        return data


def _sort(status: int, retry_after: str | None, wanted: int) -> None:
    if status == wanted:
        return
    if status in _GONE:
        raise BadImage(MISSING)
    if (status, wanted) == (200, 206):
        raise BadImage("the server sends no parts of files")
    if status >= 500 or status in _BUSY:
        wait = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
        raise TransientError(f"HTTP status {status}", wait)
    raise BadImage(f"refused: HTTP status {status}")


def _reason(error: Exception) -> str:
    """The innermost cause on one line, without addresses of objects."""
    while (cause := error.__cause__ or error.__context__) is not None and cause is not error:
        error = cause if isinstance(cause, Exception) else Exception(str(cause))
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__} {text[0]}".strip()[:120]


_RANGE = 8 << 20


class RangeStream(io.RawIOBase):
    """Reads a URL forwards; use `open`."""

    def __init__(self, url: str, length: int, fetching: RetryPolicy) -> None:
        self._url, self._length, self._fetching = url, length, fetching
        self._transport = transport_of(url, fetching)
        self._position = 0

    @classmethod
    def open(cls, url: str, length: int, fetching: RetryPolicy) -> BinaryIO:
        """A buffered stream of the object's ``length`` bytes.

        Reading raises `BadImage` where it is missing or refused, or every attempt failed.
        """
        return cast(BinaryIO, io.BufferedReader(cls(url, length, fetching), _RANGE))

    @staticmethod
    def length(url: str, fetching: RetryPolicy) -> int:
        """Bytes of the object; raises `BadImage` as reading does."""
        return retry(lambda: transport_of(url, fetching).size(url), fetching)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a part of the buffer."""
        count = min(len(buffer), self._length - self._position, _RANGE)
        if count <= 0:
            return 0
        data = retry(
            lambda: self._transport.read_range(self._url, self._position, count), self._fetching
        )
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
