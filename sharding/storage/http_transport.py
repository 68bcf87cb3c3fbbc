"""Read an object from a web server by one HTTP request.

A method makes one attempt; `sharding.storage.object_store.ObjectStore` repeats it. A failure is a
`BadImage` where the object is missing (404, 410) or refused, else a `TransientError`.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import quote

import requests
import urllib3

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

_CHUNK = 1 << 18
_GONE = (404, 410)
_BUSY = (408, 425, 429)
_NO_HEAD = (403, 405, 501)
_PAGE = (b"<!doctype html", b"<html")
_LEGAL = "%/?:@!$&'()*+,;=[]#~"
_CERTIFICATE = (
    "check the host's name and the clock, or name the authority's file in REQUESTS_CA_BUNDLE on "
    "every worker"
)


class HttpTransport:
    """Reads objects of web servers; connections are kept and shared by threads."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._timeout = policy.timeout
        self._session = _Session()
        # Encoded transfers would hide a short read.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.headers["User-Agent"] = "openimages-boostlu"
        adapter = _Adapter(pool_maxsize=policy.at_once, pool_block=True, max_retries=0)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def read(self, url: str) -> Buffer:
        """Read a whole object, of at most the size of an image."""
        data = self._get(url, {})
        if data[:64].lstrip().lower().startswith(_PAGE):
            raise Refused("a web page instead of the file")
        return data

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Read ``length`` bytes from ``offset`` on, or as many as there are."""
        header = {"Range": f"bytes={offset}-{offset + length - 1}"}
        return bytes(self._get(url, header, expected=206))

    def size(self, url: str) -> int:
        """Ask for the size of an object in bytes."""
        with _classified_errors(), self._deadline():
            response = self._session.head(url, timeout=self._timeout, allow_redirects=True)
        length = response.headers.get("Content-Length", "")
        if response.status_code in _NO_HEAD or (response.ok and not length):
            length = self._size_by_range(url)
        else:
            _check_status(response, 200)
        if not length.isdigit():
            raise BadImage("the server does not tell its size")
        return int(length)

    def _size_by_range(self, url: str) -> str:
        """Ask for one byte: a URL signed for GET answers nothing else."""
        header = {"Range": "bytes=0-0"}
        with (
            _classified_errors(),
            self._deadline(),
            self._session.get(url, headers=header, timeout=self._timeout, stream=True) as response,
        ):
            _check_status(response, 206)
            return response.headers.get("Content-Range", "").rpartition("/")[2]

    def _get(self, url: str, headers: dict[str, str], expected: int = 200) -> bytearray:
        data = bytearray()
        with (
            _classified_errors(),
            self._deadline(),
            self._session.get(url, headers=headers, timeout=self._timeout, stream=True) as response,
        ):
            _check_status(response, expected)
            while chunk := response.raw.read1(_CHUNK):
                data += chunk
                limit_bytes(len(data))
        return data

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Give the requests of this thread within the block, redirects included, an end."""
        _request.seconds = 4 * self._timeout
        _request.deadline = time.monotonic() + _request.seconds
        yield


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Read where a redirect leads; bytes that are no UTF-8 are escaped, as browsers do."""
        try:
            return super().get_redirect_target(resp)
        except UnicodeDecodeError:
            return quote(resp.headers["location"].encode("latin1"), safe=_LEGAL)


_request = threading.local()  # deadline, seconds


class _UntilDeadline(io.RawIOBase):
    """Reads a socket until the deadline of the request: each byte of one that drips is in time."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream = stream
        self._deadline, self._seconds = _request.deadline, _request.seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"slower than {self._seconds:g} s")
        return cast("int | None", self._stream.readinto(buffer))  # type: ignore[attr-defined]

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Reads headers and body of an answer until the deadline of the request."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_UntilDeadline(self.fp.detach()))


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _TlsConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(requests.adapters.HTTPAdapter):
    """Connects, directly or through a proxy, by connections that know the request's deadline."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS = {"http": _Pool, "https": _TlsPool}


@contextlib.contextmanager
def _classified_errors() -> Iterator[None]:
    """Turn what a request raises into `BadImage` (the URL's fault) or `TransientError`."""
    try:
        yield
    except requests.exceptions.TooManyRedirects:
        raise BadImage("redirected in a circle") from None
    except (ValueError, requests.exceptions.InvalidSchema) as error:
        # Of urllib3 and of IDNA too, which know more impossible hosts than requests does.
        raise BadImage(f"not a URL: {_reason(error)}") from None
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise TransientError(_reason(error)) from None
        raise Refused(f"its certificate does not hold: {_reason(error)}", _CERTIFICATE) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise TransientError(_reason(error)) from None


def _pause_asked_for(response: requests.Response) -> float:
    """Read `Retry-After`, seconds or a date; 0 where there is none or it is neither."""
    wait = response.headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return float(wait)
    with contextlib.suppress(ValueError, TypeError):
        return parsedate_to_datetime(wait).timestamp() - time.time()
    return 0.0


def _check_status(response: requests.Response, expected: int) -> None:
    status = response.status_code
    if status == expected:
        return
    if status in _GONE:
        raise BadImage(MISSING)
    if (status, expected) == (200, 206):
        raise BadImage("the server sends no parts of files")
    if status >= 500 or status in _BUSY:
        raise TransientError(f"HTTP status {status}", _pause_asked_for(response))
    raise Refused(f"refused: HTTP status {status}")


def _reason(error: Exception) -> str:
    """Describe the innermost cause on one line, without addresses of Python objects."""
    while (cause := error.__cause__ or error.__context__) is not None and cause is not error:
        error = cause if isinstance(cause, Exception) else Exception(str(cause))
    return f"{type(error).__name__} {first_line(error, 100)}"
