"""Write log lines as text, or as one JSON object a line where ``OPENIMAGES_LOG=json`` is set.

The keys are those of Ray's own JSON logs (``asctime``, ``levelname``, ``message``), so that the
lines of drivers, workers and Ray itself can be read by one rule.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

VARIABLE = "OPENIMAGES_LOG"


_SECRET = "sig|token|key|secret|pass|pwd|cred|auth|policy|session|hmac"
_VALUE = r"[^&#;\s\"']*[^&#;\s\"':,.)]"
_USER = r"[^\s/@:?#\[]*:"
_PORT = r"\d{1,5}(?:[/?#]|$)"
_REDACTED = (
    # A password may hold "/", as many of AWS do; what follows "host:8080/" is a path.
    (re.compile(rf"((?:\b(?:s3|gs)://{_USER}|://{_USER}(?!{_PORT})))[^\s?#\"']+(?=@)"), r"\1***"),
    (re.compile(r"://(?!anonymous@)[^\s/@:?#\"']+(?=@)"), "://***"),
    (re.compile(rf"(?i)([?&#;][^=&#;\s]*(?:{_SECRET})[^=&#;\s]*=){_VALUE}"), r"\1***"),
    (re.compile(rf"([?&;#][^=&#;\s]+=)(?=[^&#;\s]{{32}}){_VALUE}"), r"\1***"),
)
"""What credentials look like in a URL: userinfo, query fields by their names, long values."""


def redact(text: str) -> str:
    """Replace credentials in the URLs of a text (passwords, tokens, signatures) by ``***``.

    Whatever is written where others read it goes through here: log and error lines, records and
    the quarantine, MLflow.
    """
    if "://" in text:
        for pattern, replacement in _REDACTED:
            text = pattern.sub(replacement, text)
    return text


def first_line(error: BaseException, longest: int = 160) -> str:
    """Take the first line of an error's message, redacted; the error's type where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return redact(lines[0])[:longest]


def count(number: int, unit: str) -> str:
    """Write a number with its unit: 1 shard, 1,000 classes."""
    return f"{number:,} {unit}{'' if number == 1 else 'es' if unit.endswith('s') else 's'}"


def is_json() -> bool:
    """Whether the environment asks for log lines as JSON objects."""
    return os.environ.get(VARIABLE, "").lower() == "json"


def info(message: str, level: str = "INFO") -> None:
    """Log a message that is neither progress nor result: text on stdout, or an object."""
    message = redact(message)
    if is_json():
        write_json(level, message)
    else:
        print(message, flush=True)


@contextlib.contextmanager
def optional(what: str) -> Iterator[None]:
    """Let a block fail that nothing depends on (a figure, a page): one warning that names it."""
    try:
        yield
    except Exception as error:
        info(f"{what} left out: {type(error).__name__}: {first_line(error)}", "WARNING")


def error(message: str, **fields: Any) -> None:
    """Log on stderr why a job ends: a line of text, or an object with ``fields`` as well."""
    message = redact(message)
    if is_json():
        write_json("ERROR", message, **fields)
    else:
        print(f"error: {message}", file=sys.stderr, flush=True)


def write_json(level: str, message: str, **fields: Any) -> None:
    """Write one JSON object to stderr; numbers that are not finite become null."""
    now = datetime.now()
    moment = f"{now:%Y-%m-%d %H:%M:%S},{now.microsecond // 1000:03}"
    line = {"asctime": moment, "levelname": level, "message": message, **fields}
    finite = {
        key: None if isinstance(value, float) and value - value != 0 else value
        for key, value in line.items()
    }
    print(json.dumps(finite), file=sys.stderr, flush=True)
