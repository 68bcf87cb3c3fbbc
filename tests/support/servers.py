"""Serve files or S3 with chosen faults: a web server in a thread, and moto behind a gate.

``faults`` lists what happens to the next requests of a path, one entry each: an HTTP status, "hang"
(no answer before the client's timeout), "drip" (the body byte by byte), "drip head" (the headers
likewise), "short" (the connection closes amid the body), "noise" (an answer that is no HTTP), or
"close". Afterwards requests succeed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

import pytest

from sharding.storage.retry import RetryPolicy

Fault = int | str
HANG = 3.0
AWS = {
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
FAST = RetryPolicy(tries=3, timeout=1.0, at_once=4, first_pause=0.01)
"""Patience with these servers."""


class Web:
    """State of a server.

    Attributes:
        files: content by path.
        faults: by path; see the module.
        redirects: raw `Location` by path.
        asked: paths that were requested.
        together, most_together: requests in progress now, and at most so far.
        delay: seconds before each answer.
        lacks: what the server cannot do: "HEAD", "Range", "Content-Length", or "HEAD for
            signatures", as buckets do not that signed a URL for GET.
        url: of its root.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = files or {}
        self.faults: dict[str, list[Fault]] = {}
        self.redirects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.together = self.most_together = 0
        self.delay = 0.0
        self.lacks = ""
        self.url = ""
        self.environment: dict[str, str] = {}
        self.lock = threading.Lock()

    def fault(self, path: str) -> Fault | None:
        """Note a request; return the fault it meets, if any."""
        with self.lock:
            self.asked.append(path)
            return self.faults[path].pop(0) if self.faults.get(path) else None


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Web]:
    """Run a web server of these files on a port of its own."""
    web = Web(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            with web.lock:
                web.together += 1
                web.most_together = max(web.most_together, web.together)
            try:
                time.sleep(web.delay)
                self._answer(body=True)
            finally:
                with web.lock:
                    web.together -= 1

        def _answer(self, body: bool) -> None:
            path = self.path.lstrip("/")
            fault = web.fault(path) if body else None
            if fault == "hang":
                time.sleep(HANG)
            if fault == "drip head":
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + 200 * b"s":
                    self.wfile.write(bytes([byte]))
                    time.sleep(HANG / 20)
            if fault == "noise":
                self.wfile.write(b"what?\r\n")
            if fault in ("hang", "noise", "close", "drip head"):
                self.close_connection = True
                return
            if path in web.redirects:
                self.wfile.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n")
                self.wfile.write(b"Location: " + web.redirects[path] + b"\r\n\r\n")
                return
            content = web.files.get(path)
            status = fault if isinstance(fault, int) else 200 if content is not None else 404
            status = 405 if web.lacks == self.command else status
            if web.lacks == "HEAD for signatures" and not body:
                status = 403
            content = content if status == 200 and content is not None else b"sorry"
            byte_range = self.headers.get("Range")
            if status == 200 and byte_range and web.lacks != "Range":
                first, last = (int(n) for n in byte_range.removeprefix("bytes=").split("-"))
                content, status = content[first : last + 1], 206
            self.send_response(status)
            if status == 206 and web.lacks == "HEAD for signatures":
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(web.files[path])}")
            if body or web.lacks != "Content-Length":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault == "drip":
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    time.sleep(HANG / 20)
            elif body:
                short = fault == "short"
                self.wfile.write(content[: len(content) // 2] if short else content)
                self.close_connection = self.close_connection or short

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with _running(server, web):
        yield web


@contextlib.contextmanager
def s3() -> Iterator[Web]:
    """Run a moto S3 server and point the environment to it.

    ``faults`` are by path `bucket/key` for GET requests, by `PUT bucket/key` for single puts and by
    `POST bucket/key` for the first and last request of puts in parts.
    """
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    web, inner = Web(), DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"].lstrip("/")
        method = environ["REQUEST_METHOD"]
        name = path if method == "GET" else f"{method} {path}"
        fault = None if method == "HEAD" else web.fault(name)
        if fault == "hang":
            time.sleep(HANG)
        if isinstance(fault, int):
            start(f"{fault} Sorry", [("Content-Type", "text/plain"), ("Content-Length", "5")])
            return [b"sorry"]
        body = inner(environ, start)
        if fault == "short":
            whole = b"".join(body)
            return [whole[: len(whole) // 2]]
        return body

    with (
        _running(make_server("127.0.0.1", 0, app, threaded=True), web),
        pytest.MonkeyPatch.context() as patch,
    ):
        web.environment = {**AWS, "AWS_ENDPOINT_URL": web.url}
        for name, value in web.environment.items():
            patch.setenv(name, value)
        yield web


@contextlib.contextmanager
def _running(server: HTTPServer, web: Web) -> Iterator[None]:
    """Serve in a thread until the block ends."""
    web.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
