"""Read an object from a web server by one HTTP request.

A method makes one attempt; `sharding.storage.object_store.ObjectStore` repeats it. A failure is a
`BadImage` where the object is missing (404, 410) or refused, else a `TransientError`.
"""

from __future__ import annotations

import time

import requests

from sharding.log import first_line
from sharding.storage.retry import (
    MISSING,
    BadImage,
    Buffer,
    RetryPolicy,
    TransientError,
    limit_bytes,
)

_CHUNK = 1 << 18
_GONE = (404, 410)
_BUSY = (408, 425, 429)
_NO_SUCH_METHOD = (405, 501)


class HttpTransport:
    """Reads objects of web servers; connections are kept and shared by threads."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._timeout = policy.timeout
        self._session = requests.Session()
        # Encoded transfers would hide a short read.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.headers["User-Agent"] = "openimages-boostlu"
        adapter = requests.adapters.HTTPAdapter(
            pool_maxsize=policy.at_once, pool_block=True, max_retries=0
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def read(self, url: str) -> Buffer:
        """Read a whole object, of at most the size of an image."""
        return self._get(url, {})

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Read ``length`` bytes from ``offset`` on, or as many as there are."""
        header = {"Range": f"bytes={offset}-{offset + length - 1}"}
        return bytes(self._get(url, header, expected=206))

    def size(self, url: str) -> int:
        """Ask for the size of an object in bytes."""
        try:
            response = self._session.head(url, timeout=self._timeout, allow_redirects=True)
        except requests.RequestException as error:
            raise TransientError(_reason(error)) from None
        length = response.headers.get("Content-Length")
        if response.status_code in _NO_SUCH_METHOD or (response.ok and length is None):
            raise BadImage("the server does not tell its size")
        _check_status(response, 200)
        return int(length or 0)

    def _get(self, url: str, headers: dict[str, str], expected: int = 200) -> bytearray:
        deadline = time.monotonic() + 4 * self._timeout
        try:
            with self._session.get(
                url, headers=headers, timeout=self._timeout, stream=True
            ) as response:
                _check_status(response, expected)
                data = bytearray()
                for chunk in response.iter_content(_CHUNK):
                    data += chunk
                    limit_bytes(len(data))
                    if time.monotonic() > deadline:
                        raise TransientError(f"slower than {4 * self._timeout:g} s")
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise BadImage(f"not a URL: {_reason(error)}") from None
        except requests.exceptions.TooManyRedirects:
            raise BadImage("redirected in a circle") from None
        except requests.RequestException as error:
            raise TransientError(_reason(error)) from None
        return data


def _check_status(response: requests.Response, expected: int) -> None:
    status = response.status_code
    if status == expected:
        return
    if status in _GONE:
        raise BadImage(MISSING)
    if (status, expected) == (200, 206):
        raise BadImage("the server sends no parts of files")
    if status >= 500 or status in _BUSY:
        wait = response.headers.get("Retry-After", "")
        raise TransientError(f"HTTP status {status}", float(wait) if wait.isdigit() else 0.0)
    raise BadImage(f"refused: HTTP status {status}")


def _reason(error: Exception) -> str:
    """Describe the innermost cause on one line, without addresses of Python objects."""
    while (cause := error.__cause__ or error.__context__) is not None and cause is not error:
        error = cause if isinstance(cause, Exception) else Exception(str(cause))
    return f"{type(error).__name__} {first_line(error, 100)}"
