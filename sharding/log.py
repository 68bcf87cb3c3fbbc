"""Log lines as JSON objects, one a line, for whoever collects logs: ``OPENIMAGES_LOG=json``.

The keys are those of Ray's own JSON logs (``asctime``, ``levelname``, ``message``), so that the
lines of drivers, workers and Ray itself can be read by one rule.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from typing import Any

VARIABLE = "OPENIMAGES_LOG"


def wanted() -> bool:
    """Whether the environment asks for JSON."""
    return os.environ.get(VARIABLE, "").lower() == "json"


def info(message: str, level: str = "INFO") -> None:
    """Say something that is neither progress nor result: a line of text, or an object."""
    if wanted():
        log(level, message)
    else:
        print(message, flush=True)


def error(message: str, **fields: Any) -> None:
    """Say on stderr why a job ends: a line of text, or an object with ``fields`` as well."""
    if wanted():
        log("ERROR", message, **fields)
    else:
        print(f"error: {message}", file=sys.stderr, flush=True)


def log(level: str, message: str, **fields: Any) -> None:
    """Write one object to stderr; numbers that are not finite become null."""
    now = datetime.now()
    moment = f"{now:%Y-%m-%d %H:%M:%S},{now.microsecond // 1000:03}"
    line = {"asctime": moment, "levelname": level, "message": message, **fields}
    finite = {
        key: None if isinstance(value, float) and value - value != 0 else value
        for key, value in line.items()
    }
    print(json.dumps(finite), file=sys.stderr, flush=True)
