"""Bytes of one object at a URL: http and https by requests, s3 and gs by Arrow, else by fsspec.

A `Transport` makes one attempt; `sharding.fetching.patiently` repeats it. Failures are sorted here:
gone (`BadImage` with the reason "missing"), refused (`BadImage`), or perhaps passing (`Passing`).
Time limits hold for http, s3 and gs; what fsspec opens keeps to that file system's own.
"""

from __future__ import annotations

import functools
import time
from typing import Protocol
from urllib.parse import urlsplit

from sharding.encoded import MISSING, BadImage, Buffer, limit_bytes
from sharding.fetching import Fetching, Passing

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
def open_transport(scheme: str, bucket: str, fetching: Fetching) -> Transport:
    """The transport for URLs of this scheme and bucket; connections are kept between shards.

    Raises:
        InputError: no file system is known or installed for the scheme.
    """
    if scheme in ("http", "https"):
        return _HttpTransport(fetching)
    from sharding.cloud import CloudTransport, file_system

    return CloudTransport(file_system(scheme, bucket, fetching))


def transport_of(url: str, fetching: Fetching) -> Transport:
    """The transport for a URL."""
    parts = urlsplit(url)
    web = parts.scheme in ("http", "https")
    return open_transport(parts.scheme, "" if web else parts.netloc, fetching)


class _HttpTransport:
    def __init__(self, fetching: Fetching) -> None:
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
            raise Passing(_reason(error)) from None
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
                        raise Passing(f"slower than {4 * self._limit:g} s")
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise BadImage(f"not a URL: {_reason(error)}") from None
        except requests.exceptions.TooManyRedirects:
            raise BadImage("redirected in a circle") from None
        except requests.RequestException as error:
            raise Passing(_reason(error)) from None
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
        raise Passing(f"HTTP status {status}", wait)
    raise BadImage(f"refused: HTTP status {status}")


def _reason(error: Exception) -> str:
    """The innermost cause on one line, without addresses of objects."""
    while (cause := error.__cause__ or error.__context__) is not None and cause is not error:
        error = cause if isinstance(cause, Exception) else Exception(str(cause))
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__} {text[0]}".strip()[:120]
