"""Build dataclasses from JSON with the types checked, and hash records."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar, cast, get_origin, get_type_hints

Record = TypeVar("Record")


def record_digest(record: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of plain values, equal for any order of their keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def build_record(kind: type[Record], raw: Mapping[str, Any]) -> Record:
    """Build a dataclass of the fields given.

    Raises:
        TypeError: a field is missing or unknown, or a number, text or mapping is something else.
    """
    for name, wanted in _plain_fields(cast(Hashable, kind)):
        if name in raw and (isinstance(raw[name], bool) or not isinstance(raw[name], wanted)):
            raise TypeError(f"{name} is {str(raw[name])[:40]!r}, no {wanted.__name__}")
    return kind(**raw)


@functools.cache
def _plain_fields(kind: Any) -> list[tuple[str, type[Any]]]:
    """List the fields of a dataclass that are numbers, texts or mappings, with these types."""
    hints = {name: get_origin(hint) or hint for name, hint in get_type_hints(kind).items()}
    return [(name, hint) for name, hint in hints.items() if hint in (int, str, Mapping)]
