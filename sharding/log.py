"""Write log lines as text, or as one JSON object a line where ``OPENIMAGES_LOG=json`` is set.

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


def is_json() -> bool:
    """Whether the environment asks for log lines as JSON objects."""
    return os.environ.get(VARIABLE, "").lower() == "json"


def info(message: str, level: str = "INFO") -> None:
    """Log a message that is neither progress nor result: text on stdout, or an object."""
    if is_json():
        write_json(level, message)
    else:
        print(message, flush=True)


def error(message: str, **fields: Any) -> None:
    """Log on stderr why a job ends: a line of text, or an object with ``fields`` as well."""
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
