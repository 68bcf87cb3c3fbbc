"""Options of a method as they are typed: name=value."""

from __future__ import annotations

from typing import Any

from sharding.errors import InputError


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Turn ("delta_rel=0.5", "detach=true") into keyword arguments.

    Raises:
        InputError: an option is not of the form name=value.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"method option {option!r} is not name=value", fix="write name=value")
        parsed[name] = _literal(text)
    return parsed


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
